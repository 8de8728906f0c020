// One of the two threads of litmus.test.ts: plays rounds against the other until the time is over.
import { GuestMemory, type GuestMemoryData } from '@node-vmm/hostmem'
import { parentPort, workerData } from 'node:worker_threads'
import { type DriverQueue, DriverRing, layOutPackedRing, layOutRing, PackedDriverRing } from '../../src/driver/index.ts'
import { DescriptorChain, PackedVring, SplitVring, VIRTIO_F_EVENT_IDX, type Virtqueue } from '../../src/index.ts'

/** What a player begins with. */
export interface LitmusGame {
  readonly role: 'driver' | 'device'
  /** `kick`: publish and needsKick against enableNotification. `interrupt`: publish and shouldNotify against enableInterrupts. */
  readonly race: 'kick' | 'interrupt'
  readonly eventIdx: boolean
  readonly packed: boolean
  readonly memory: GuestMemoryData
  /** 32-bit words: the rendezvous counter of each role, then what each found in this round. */
  readonly shared: SharedArrayBuffer
  /** It lasts so long. */
  readonly milliseconds: number
  /** Or up to so long, until there were `ENOUGH` rounds and both outcomes. */
  readonly millisecondsMax: number
}

/** How it ended, as each player counted. */
export interface LitmusResult {
  readonly rounds: number
  /** Rounds in which one side did not notify and the other went to sleep. */
  readonly lost: number
  /** Rounds in which the sleeper saw the work by its second look. */
  readonly seen: number
  /** Rounds in which there was a notification. */
  readonly notified: number
}

/** Rounds. */
const ENOUGH = 1001

const game = workerData as LitmusGame
// Many rings a meeting: what two threads have to wait for each other is much longer than one race.
const RINGS = 128
const RING_BYTES = 0x200
const words = new Int32Array(game.shared)
const me = game.role === 'driver' ? 0 : 1
const other = 1 - me
const OVER = 2
const FOUND = 16
const rings = Array.from({ length: RINGS }, (_, index) => index)
let spun = 0

/** Waits until the other one has come as far. */
function meet (): void {
  const turn = Atomics.add(words, me, 1) + 1
  Atomics.notify(words, me)
  for (let spins = 0; Atomics.load(words, other) < turn; spins++) {
    // Where both share a processor, spinning would only take the other's time.
    if (spins > 10_000) Atomics.wait(words, other, turn - 1, 1)
  }
}

/** Lets the two come to a ring a few instructions apart, now the one earlier, now the other. */
function stagger (turn: number): void {
  for (let spins = (turn * (me === 0 ? 5 : 7)) & 15; spins > 0; spins--) spun = (spun + spins) | 0
}

/** A race for the same ring on both sides. `race` returns whether this side notified, or saw the work. */
interface Sides {
  prepare (ring: number): void
  race (ring: number): boolean
  tidy (ring: number): void
}

/** Plays until the time is over, which the driver says. */
function play ({ prepare, race, tidy }: Sides): LitmusResult {
  const started = Date.now()
  const result = { rounds: 0, lost: 0, seen: 0, notified: 0 }
  // The one that gives the work away is the one that may notify.
  const sender = game.race === 'kick' ? 0 : 1
  for (;;) {
    takeTurns(prepare)
    if (me === 0 && isEnough(result, Date.now() - started)) Atomics.store(words, OVER, 1)
    meet()
    if (Atomics.load(words, OVER) === 1) return result
    for (let ring = 0; ring < RINGS; ring++) {
      stagger(result.rounds + ring)
      words[FOUND + 2 * ring + me] = Number(race(ring))
    }
    meet()
    for (const ring of rings) {
      const notified = words[FOUND + 2 * ring + sender] === 1
      const seen = words[FOUND + 2 * ring + 1 - sender] === 1
      result.rounds++
      if (notified) result.notified++
      if (seen) result.seen++
      if (!notified && !seen) result.lost++
    }
    takeTurns(tidy)
  }
}

function isEnough ({ rounds, seen, notified }: LitmusResult, milliseconds: number): boolean {
  if (milliseconds <= game.milliseconds) return false
  return (rounds >= ENOUGH && seen > 0 && notified > 0) || milliseconds > game.millisecondsMax
}

/** Each side in turn does something to every ring, the one first that has something for the other. */
function takeTurns (step: (ring: number) => void): void {
  const first = step.name === 'prepare' ? 0 : 1
  if (me === first) rings.forEach(step)
  meet()
  if (me !== first) rings.forEach(step)
  meet()
}

function playDriver (memory: GuestMemory): LitmusResult {
  const drivers = rings.map((index): DriverQueue => game.packed
    ? new PackedDriverRing(memory, layOutPackedRing(RING_BYTES * index, 4), { eventIdx: game.eventIdx })
    : new DriverRing(memory, layOutRing(RING_BYTES * index, 4), { eventIdx: game.eventIdx }))
  for (const driver of drivers) driver.segmentLength[0] = 1
  meet()
  return play({
    prepare (ring) {
      const driver = drivers[ring]!
      driver.addChain(1, 0)
      if (game.race === 'kick') return
      driver.publish()
      driver.needsKick()
      driver.disableInterrupts()
    },
    race (ring) {
      const driver = drivers[ring]!
      if (game.race === 'interrupt') return driver.enableInterrupts() === 'more'
      driver.publish()
      return driver.needsKick()
    },
    tidy (ring) {
      if (drivers[ring]!.pollUsed() < 0) throw new Error('nothing used')
    }
  })
}

function playDevice (memory: GuestMemory): LitmusResult {
  meet()
  const features = BigInt(game.eventIdx) << BigInt(VIRTIO_F_EVENT_IDX)
  const devices = rings.map((index): Virtqueue => game.packed
    ? new PackedVring(memory, { ...layOutPackedRing(RING_BYTES * index, 4), features })
    : new SplitVring(memory, { ...layOutRing(RING_BYTES * index, 4), features }))
  const chain = new DescriptorChain(memory)
  const serve = (device: Virtqueue): void => {
    if (device.pop(chain) !== 'chain') throw new Error(`no chain: ${device.fault?.message}`)
    device.push(chain.head, 0)
  }
  return play({
    prepare (ring) {
      if (game.race === 'kick') devices[ring]!.disableNotification()
      else serve(devices[ring]!)
    },
    race (ring) {
      const device = devices[ring]!
      if (game.race === 'kick') return device.enableNotification() === 'more'
      device.publish()
      return device.shouldNotify()
    },
    tidy (ring) {
      if (game.race === 'interrupt') return
      serve(devices[ring]!)
      devices[ring]!.publish()
    }
  })
}

const memory = GuestMemory.attach(game.memory)
parentPort!.postMessage(game.role === 'driver' ? playDriver(memory) : playDevice(memory))
