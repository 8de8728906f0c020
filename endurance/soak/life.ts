// The long life of a server: one guest after the other, each with a load, and something that happens to it.
import { setTimeout as sleep } from 'node:timers/promises'
import { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN } from '@node-vmm/virtio-blk-driver'
import { Histogram } from '../../bench/histogram.ts'
import { SoakGuest } from './guest.ts'
import { type Sample, SAMPLES_MIN } from './judge.ts'
import { DATA_BYTES, Ledger, SLOTS, SLOTS_BYTES } from './load.ts'
import { look, QUEUES, SIZE_MIN, type Subject } from './subject.ts'

/** What may happen to a guest under load. */
const EVENTS = {
  'rings stopped and started': stopAndStart,
  'a migration that fails': migrate,
  'memory shared again': async (guest: SoakGuest) => await guest.shareMemoryAgain(),
  'a resize': resize,
  'a pause': pause
} as const
type EventName = keyof typeof EVENTS

/** Milliseconds that a load runs before and after something happens. */
const LOAD_MILLISECONDS = 150
const SIZE_STEPS = 1000

/** What a server went through. */
export interface Life {
  readonly name: string
  /** How long it was to be. */
  readonly seconds: number
  readonly samples: readonly Sample[]
  readonly requests: number
  readonly verified: number
  /** How often what happened. */
  readonly events: ReadonlyMap<string, number>
}

/** Lets a server live for so long. @throws as soon as something is not as it must be, with the end of what it has printed */
export async function live (subject: Subject, seconds: number, random: () => number): Promise<Life> {
  try {
    return await liveOn(subject, seconds, random)
  } catch (error) {
    throw subject.failure((error as Error).message)
  }
}

async function liveOn (subject: Subject, seconds: number, random: () => number): Promise<Life> {
  const samples: Sample[] = []
  const events = new Map<string, number>()
  const count = (event: string): void => { events.set(event, (events.get(event) ?? 0) + 1) }
  const ledger = new Ledger(random)
  const latencies = new Histogram()
  const began = performance.now()
  const age = (): number => (performance.now() - began) / 1000
  let requests = 0
  for (let sessions = 1; age() < seconds || samples.length < SAMPLES_MIN; sessions++) {
    // All that it ever needs it has after the first one.
    const isFirst = sessions === 1
    const guest = await SoakGuest.connect(subject.socketPath, {
      queues: isFirst ? QUEUES : 1 + Math.floor(random() * QUEUES),
      queueSize: 256,
      packed: random() < 0.5,
      inOrder: random() < 0.25,
      dataBytes: DATA_BYTES
    }, latencies)
    await ledger.verify(guest)
    const stop = ledger.start(guest, isFirst ? SLOTS : 1 + Math.floor(random() * SLOTS))
    await sleep(LOAD_MILLISECONDS)
    for (const event of chosen(random)) {
      if (event === 'a pause' && subject.paused === undefined) continue
      await EVENTS[event](guest, subject, random)
      count(event)
      await sleep(LOAD_MILLISECONDS)
    }
    const isKilled = random() < 0.3
    count(isKilled ? 'front-ends killed' : 'front-ends gone')
    if (isKilled) guest.kill()
    await stop()
    if (!isKilled) await guest.close()
    const done = guest.requests
    requests += done
    const nanoseconds = { p50: latencies.percentile(0.5), p99: latencies.percentile(0.99) }
    latencies.clear()
    samples.push({ at: age(), requests: done, ...nanoseconds, ...await look(subject, samples.at(-1)) })
  }
  return { name: subject.name, seconds, samples, requests, verified: ledger.verified, events }
}

/** One or two things that happen. */
function chosen (random: () => number): EventName[] {
  const names = Object.keys(EVENTS) as EventName[]
  const choose = (): EventName => names[Math.floor(random() * names.length)]!
  return random() < 0.5 ? [choose()] : [choose(), choose()]
}

async function stopAndStart (guest: SoakGuest): Promise<void> {
  for (let round = 0; round < 5; round++) await guest.startRings(await guest.stopRings())
}

async function migrate (guest: SoakGuest): Promise<void> {
  await guest.startLog()
  await sleep(LOAD_MILLISECONDS)
  const pages = guest.loggedPages()
  await guest.stopLog()
  if (pages === 0) throw new Error('a migration saw no page written under load')
}

async function pause (_guest: SoakGuest, subject: Subject): Promise<void> {
  await subject.paused!(async () => { await sleep(LOAD_MILLISECONDS / 3) })
}

async function resize (guest: SoakGuest, subject: Subject, random: () => number): Promise<void> {
  const told = guest.configChanges
  const bytes = SIZE_MIN + 4096 * (1 + Math.floor(random() * SIZE_STEPS))
  const before = await guest.capacity()
  await subject.resize(bytes)
  for (const end = Date.now() + 60_000; await guest.capacity() !== bytes; await sleep(5)) {
    if (Date.now() > end) throw new Error(`the disk has ${await guest.capacity()} bytes, not ${bytes}`)
  }
  if (bytes !== before) while (guest.configChanges === told) await sleep(5)
  // Behind the slots' own memory nobody else reads to.
  const probe = async (sector: number): Promise<number> => await guest.request(0, VIRTIO_BLK_T_IN, sector, guest.dataAddress + SLOTS_BYTES, 512)
  const [last, behind] = [await probe(bytes / 512 - 1), await probe(bytes / 512)]
  if (last !== VIRTIO_BLK_S_OK || behind !== VIRTIO_BLK_S_IOERR) throw new Error(`at the end of a disk of ${bytes} bytes: status ${last}, behind it ${behind}`)
}
