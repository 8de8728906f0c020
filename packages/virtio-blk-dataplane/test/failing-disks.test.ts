// Each way in which a disk fails, with each kind of request, on each engine: the guest sees the right status, what was
// acknowledged before is intact, and the queue serves on. Each has a queue and a place on the disk of its own.
import assert from 'node:assert/strict'
import type { Fault, FaultRule } from '@node-vmm/ioq/testing'
import { suite } from 'uvu'
import {
  AbandonedError, DataPlane, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES
} from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { ENGINES, scratchFor } from './support/engines.ts'
import { Hold } from './support/faulty-engine.ts'
import { faultyQueues } from './support/faulty-queues-engine.ts'
import { type Answer, Guest } from './support/guest.ts'
import { type Scratch, sectorPattern } from './support/image.ts'

type Operation = NonNullable<FaultRule['operation']>

const OPERATIONS: readonly Operation[] = ['read', 'write', 'flush', 'discard', 'writeZeroes']
/** Sectors that each case has to itself: acknowledged, then faulty. */
const HALF = 16
const UNMAP = 1

const done = { status: VIRTIO_BLK_S_OK, written: 1 }
const failed = { status: VIRTIO_BLK_S_IOERR, written: 1 }

interface Failure {
  readonly title: string
  readonly fault: Fault
  /** What the guest is told; undefined where it never is. */
  readonly answer: Answer | undefined
  readonly hold?: Hold
}

function failures (): Failure[] {
  const hold = new Hold()
  return [
    ...(['EIO', 'ENOSPC', 'EROFS', 'ENOMEM'] as const).map((code) => ({ title: code, fault: { kind: 'error' as const, code }, answer: failed })),
    ...(['EAGAIN', 'EINTR'] as const).map((code) => ({ title: `${code}, which means once more`, fault: { kind: 'error' as const, code }, answer: done })),
    { title: 'a kernel that does not take it at once', fault: { kind: 'again' }, answer: done },
    { title: 'a kernel that moves a part only', fault: { kind: 'short' }, answer: done },
    { title: 'a completion that is late', fault: hold.fault, answer: done, hold },
    { title: 'a completion that never comes', fault: { kind: 'never' }, answer: undefined }
  ]
}

/** One queue, of which the second request of a kind fails. */
class Case {
  readonly guest: Guest
  readonly #index: number
  readonly #sector: number
  readonly #operation: Operation
  readonly #failure: Failure

  constructor (index: number, operation: Operation, failure: Failure) {
    this.guest = new Guest({ packed: index % 2 === 1, eventIdx: index % 3 !== 0, memoryBytes: 1 << 20 })
    this.#index = index
    this.#sector = index * 2 * HALF
    this.#operation = operation
    this.#failure = failure
  }

  get rule (): FaultRule {
    return { operation: this.#operation, at: 1, fault: this.#failure.fault }
  }

  get #faulty (): number {
    return this.#sector + HALF
  }

  /** The acknowledged half by a first request of each kind, and the other half as it was. */
  async acknowledge (): Promise<void> {
    const { guest } = this
    assert.deepEqual(await guest.write(this.#sector, sectorPattern(this.#sector, HALF, 1)), done)
    assert.deepEqual(await this.#range(VIRTIO_BLK_T_DISCARD, this.#sector, 1), done)
    assert.deepEqual(await this.#range(VIRTIO_BLK_T_WRITE_ZEROES, this.#sector + 1, 1), done)
    assert.deepEqual(await guest.flush(), done)
    assert.equal((await guest.read(this.#sector, 512)).status, VIRTIO_BLK_S_OK)
  }

  async fails (plane: DataPlane): Promise<void> {
    const { answer, hold } = this.#failure
    let answered = false
    const pending = this.#request().then((given) => {
      answered = true
      return given
    })
    if (hold !== undefined || answer === undefined) {
      await eventually('it is in flight', () => plane.inFlight[this.#index] === 1)
      assert.equal((await this.guest.getId()).status, VIRTIO_BLK_S_OK, 'others are served meanwhile')
      assert.equal(answered, false)
    }
    if (answer === undefined) return
    hold?.letGo()
    const { status, written } = await pending
    const isRead = this.#operation === 'read' && status === VIRTIO_BLK_S_OK
    assert.deepEqual({ status, written }, { status: answer.status, written: isRead ? HALF * 512 + 1 : answer.written })
  }

  #request (): Promise<Answer> {
    switch (this.#operation) {
      case 'read': return this.#read()
      case 'write': return this.guest.write(this.#faulty, sectorPattern(this.#faulty, HALF, 2))
      case 'flush': return this.guest.flush()
      case 'discard': return this.#range(VIRTIO_BLK_T_DISCARD, this.#faulty, HALF)
      case 'writeZeroes': return this.#range(VIRTIO_BLK_T_WRITE_ZEROES, this.#faulty, HALF)
    }
  }

  async #read (): Promise<Answer> {
    const { data, ...answer } = await this.guest.read(this.#faulty, HALF * 512)
    assert.deepEqual(data, answer.status === VIRTIO_BLK_S_OK ? sectorPattern(this.#faulty, HALF) : new Uint8Array(HALF * 512))
    return answer
  }

  #range (type: number, sector: number, sectors: number): Promise<Answer> {
    const { guest } = this
    const address = guest.allocate(16)
    guest.memory.setUint64(address, BigInt(sector))
    guest.memory.setUint32(address + 8, sectors)
    guest.memory.setUint32(address + 12, type === VIRTIO_BLK_T_DISCARD ? 0 : UNMAP)
    return guest.request(type, 0, { readable: [{ address, length: 16 }] })
  }

  /** What the guest finds afterwards, and what the host does. */
  async isIntact (scratch: Scratch, path: string): Promise<void> {
    const { guest } = this
    const acknowledged = sectorPattern(this.#sector, HALF, 1)
    acknowledged.fill(0, 0, 2 * 512)
    const expected = Uint8Array.from([...acknowledged, ...this.#expected()])
    assert.deepEqual(scratch.sectors(path, this.#sector, 2 * HALF), expected)
    const { status, data } = await guest.read(this.#sector, 2 * HALF * 512)
    assert.equal(status, VIRTIO_BLK_S_OK)
    assert.deepEqual(data, expected)
    // The same request once more is as any other.
    const isRead = this.#operation === 'read'
    if (!isRead) assert.deepEqual(await this.#request(), done)
    assert.deepEqual(await guest.flush(), done)
    assert.deepEqual(scratch.sectors(path, this.#faulty, HALF), this.#afterwards(true))
  }

  #expected (): Uint8Array {
    return this.#afterwards(this.#failure.answer?.status === VIRTIO_BLK_S_OK)
  }

  /** The faulty half, when the request was done, or was not. */
  #afterwards (isDone: boolean): Uint8Array {
    if (isDone && this.#operation === 'write') return sectorPattern(this.#faulty, HALF, 2)
    if (isDone && (this.#operation === 'discard' || this.#operation === 'writeZeroes')) return new Uint8Array(HALF * 512)
    return sectorPattern(this.#faulty, HALF)
  }
}

for (const engine of ENGINES) {
  const test = suite(`failing disks: ${engine}`)
  const list = OPERATIONS.flatMap((operation) => failures().map((failure) => ({ operation, failure })))
  const cases = list.map(({ operation, failure }, index) => new Case(index, operation, failure))
  const neverEnding = list.flatMap(({ failure }, index) => failure.answer === undefined ? [index] : [])
  const scratch = scratchFor(engine)
  const path = scratch.image(`${engine}.img`, cases.length * 2 * HALF)
  const plane = DataPlane.create({
    path, queues: cases.length, engine: faultyQueues(engine, cases.map(({ rule }) => ({ rules: [rule] })))
  })
  test.before(async () => await plane.start(cases.map(({ guest }) => guest.setup)))
  test.after(() => { for (const { guest } of cases) guest.close() })

  for (const [index, { operation, failure }] of list.entries()) {
    // Those that never complete are in flight until the end.
    if (failure.answer === undefined) continue
    test(`${engine}: ${operation}: ${failure.title}: ${failure.answer === done ? 'the guest sees nothing of it' : 'the guest is told'}`, async () => {
      await cases[index]!.acknowledge()
      await cases[index]!.fails(plane)
      await cases[index]!.isIntact(scratch, path)
      assert.equal(plane.statistics(index).errors, failure.answer === done ? 0 : 1)
    })
  }

  test(`${engine}: requests that never complete, of each kind: the queue serves on, and the end of the data plane names them`, async () => {
    for (const index of neverEnding) {
      await cases[index]!.acknowledge()
      await cases[index]!.fails(plane)
      await cases[index]!.isIntact(scratch, path)
    }
    assert.equal(neverEnding.length, OPERATIONS.length)
    await assert.rejects(plane.drain({ timeout: 10 }), { code: 'ERR_TIMEOUT', inFlight: cases.map((_, index) => Number(neverEnding.includes(index))) })
    await assert.rejects(plane.close({ timeout: 100 }), (error: unknown) => error instanceof AbandonedError && String(error.queues) === String(neverEnding))
  })

  test.run()
}
