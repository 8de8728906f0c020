// O_DIRECT with a second descriptor for what it cannot take, and writes that are durable when they complete.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { close, errno, fileStatus, ftruncate, O_DIRECT, O_RDWR, open } from '@node-vmm/libc'
import {
  type CompletionSink, type Engine, type EngineName, openEngine, REQUEST_BUFFERED, REQUEST_DURABLE, type RequestTable
} from '@node-vmm/ioq'
import type { FaultPlan } from '@node-vmm/ioq/testing'
import { eventually } from '../../../test/support/eventually.ts'
import { withLoopDevice } from '../../../test/support/loop-device.ts'
import { badDay, diskEngines, Harness, scratchFile } from './support.ts'

const KIB = 1024

for (const name of diskEngines()) {
  direct(name)
  durable(name)
}

/** A file in the temporary directory by both descriptors, or undefined where there is no O_DIRECT. */
function directFile (): { fd: number, bufferedFd: number, remove: () => void } | undefined {
  let file: ReturnType<typeof scratchFile>
  try {
    file = scratchFile(tmpdir(), O_DIRECT)
  } catch {
    console.log('skipped: no O_DIRECT in the temporary directory')
    return undefined
  }
  const bufferedFd = open(file.path, O_RDWR)
  return { fd: file.fd, bufferedFd, remove: () => { close(bufferedFd); file.remove() } }
}

/** Moves only 1536 bytes of its first request, as no block device would, but a file system that runs full might. */
class CuttingEngine implements Engine {
  readonly name: string
  readonly depth: number
  readonly completionFd: number
  readonly #inner: Engine
  #cut = false

  constructor (inner: Engine) {
    this.#inner = inner
    this.name = `cutting ${inner.name}`
    this.depth = inner.depth
    this.completionFd = inner.completionFd
  }

  get systemCalls (): number {
    return this.#inner.systemCalls
  }

  submit (ids: Uint16Array, from: number, count: number, table: RequestTable): number {
    if (this.#cut) return this.#inner.submit(ids, from, count, table)
    this.#cut = true
    const id = ids[from]!
    const length = table.first[id]! + 2
    const whole = table.iovecs[length]!
    table.iovecs[length] = 1536
    table.flags[id] = REQUEST_BUFFERED
    const taken = this.#inner.submit(ids, from, 1, table)
    table.iovecs[length] = whole
    table.flags[id] = 0
    return taken
  }

  reap (sink: CompletionSink): void {
    this.#inner.reap(sink)
  }

  close (): void {
    this.#inner.close()
  }
}

function direct (name: EngineName): void {
  const test = suite(`O_DIRECT by ${name}`)

  const withFile = (plan: FaultPlan | undefined, body: (harness: Harness, fd: number) => void): void => {
    const file = directFile()
    if (file === undefined) return
    const harness = new Harness(name, file.fd, { bufferedFd: file.bufferedFd, plan })
    try {
      ftruncate(file.fd, 1024 * KIB)
      harness.memory.u8.fill(0xa5, 0, 64 * KIB)
      assert.equal(harness.transfer('writev', [[0, 64 * KIB]], 0), 64 * KIB)
      body(harness, file.fd)
    } finally {
      harness.close()
      file.remove()
    }
  }

  for (const flags of [0, REQUEST_BUFFERED]) {
    test(`takes memory, offsets and lengths off the alignment ${flags === 0 ? 'when the kernel has refused them' : 'when told to'}`, () => withFile(undefined, (harness) => {
      const { memory, queue } = harness
      memory.u8.forEach((_, index, bytes) => { if (index < 256 * KIB) bytes[index] = index * 7 + (index >> 8) })
      for (const [at, length, offset] of [[1, 512, 0], [513, 4096, 4096], [0, 100, 8192], [3, 1001, 20001]] as const) {
        const before = queue.submissions
        assert.equal(harness.transfer('writev', [[at, length]], offset, flags), length)
        // Some of it is taken by some kernels.
        if (flags !== 0) assert.equal(queue.submissions - before, 1)
        assert.equal(queue.flags[0], 0)
        assert.equal(harness.transfer('readv', [[512 * KIB + at, length]], offset, flags), length)
        assert.deepEqual(memory.u8.slice(512 * KIB + at, 512 * KIB + at + length), memory.u8.slice(at, at + length))
      }
    }))
  }

  test('each sees at once what the other wrote', () => withFile(undefined, (harness) => {
    const { memory } = harness
    for (let round = 1; round < 100; round++) {
      memory.u8.fill(round, 0, 4096)
      memory.u8.fill(round + 100, 4096, 8192)
      const [first, second] = round % 2 === 0 ? [0, REQUEST_BUFFERED] : [REQUEST_BUFFERED, 0]
      assert.equal(harness.transfer('writev', [[0, 4096]], 0, first), 4096)
      assert.equal(harness.transfer('readv', [[8192, 4096]], 0, second), 4096)
      assert.ok(memory.u8.subarray(8192, 12288).every((byte) => byte === round), `round ${round}`)
      assert.equal(harness.transfer('writev', [[4096, 512]], 512, second), 512)
      assert.equal(harness.transfer('readv', [[8192, 4096]], 0, first), 4096)
      assert.ok(memory.u8.subarray(8192 + 512, 8192 + 1024).every((byte) => byte === round + 100), `round ${round}`)
      assert.ok(memory.u8.subarray(8192 + 1024, 12288).every((byte) => byte === round), `round ${round}`)
    }
    assert.equal(harness.flush(), 0)
  }))

  for (const plan of [undefined, badDay]) {
    test(`neighbours written at the same time, directly and buffered, all arrive${plan === undefined ? '' : ', on a bad day'}`, () => withFile(plan, (harness) => {
      const { memory, queue } = harness
      const sectors = 64
      for (let round = 1; round <= 60; round++) {
        harness.results.clear()
        for (let id = 0; id < sectors; id++) {
          memory.u8.fill((round * 3 + id) & 0xff, id * 512, id * 512 + 512)
          // Bits of a number that grows: every mixture comes up.
          queue.flags[id] = (Math.imul(round, 0x9e3779b1) >>> (id % 29)) & 1 ? REQUEST_BUFFERED : 0
          queue.writev(id, [{ address: memory.address + id * 512, length: 512 }], id * 512)
        }
        harness.finish()
        for (let id = 0; id < sectors; id++) assert.equal(harness.results.get(id), 512)
        assert.equal(harness.flush(), 0, 'Linux found no page that it could not drop')
        assert.equal(harness.transfer('readv', [[512 * KIB, sectors * 512]], 0), sectors * 512)
        for (let id = 0; id < sectors; id++) {
          const there = memory.u8.subarray(512 * KIB + id * 512, 512 * KIB + id * 512 + 512)
          assert.ok(there.every((byte) => byte === ((round * 3 + id) & 0xff)), `round ${round}, sector ${id}`)
        }
      }
    }))
  }

  test('an end of the file inside a block is filled up', () => withFile(undefined, (harness, fd) => {
    ftruncate(fd, 4096 + 100)
    for (const flags of [0, REQUEST_BUFFERED]) {
      harness.memory.u8.fill(0xee, 128 * KIB, 256 * KIB)
      assert.equal(harness.transfer('readv', [[128 * KIB, 8192]], 0, flags), 8192)
      const read = harness.memory.u8.subarray(128 * KIB, 128 * KIB + 8192)
      assert.ok(read.subarray(0, 4196).every((byte) => byte === 0xa5))
      assert.ok(read.subarray(4196).every((byte) => byte === 0))
    }
  }))

  test('EINVAL is reason to try the other descriptor, once', () => withFile({
    rules: [{ at: 1, fault: { kind: 'error', code: 'EINVAL' } }, { at: 3, fault: { kind: 'error', code: 'EINVAL' } }, { at: 4, fault: { kind: 'error', code: 'EINVAL' } }]
  }, (harness) => {
    assert.equal(harness.transfer('writev', [[1, 100]], 0), 100)
    assert.equal(harness.queue.submissions, 3)
    assert.equal(harness.transfer('readv', [[4096, 100]], 0), -errno.EINVAL)
    assert.equal(harness.queue.submissions, 5)
  }))

  test('what no descriptor takes is still EINVAL', () => withFile(undefined, (harness) => {
    const { queue, memory } = harness
    queue.writev(0, [{ address: memory.address, length: 512 }, { address: memory.address, length: 512 }], 0)
    // A length of 2^63 and more is negative to the kernel.
    queue.iovecs[3] = 0x80000000
    harness.finish()
    assert.equal(harness.results.get(0), -errno.EINVAL)
  }))

  test('the rest of a transfer that was cut off the alignment goes through the page cache', () => withLoopDevice({ directory: tmpdir(), bytes: 1024 * KIB, logicalBlockBytes: 4096 }, (device) => {
    const fd = open(device.path, O_RDWR | O_DIRECT)
    const bufferedFd = open(device.path, O_RDWR)
    for (const operation of ['writev', 'readv'] as const) {
      for (const known of [true, false]) {
        const engine = new CuttingEngine(openEngine(name, { fd, depth: 64, bufferedFd }).engine)
        const harness = new Harness(name, fd, { engine, bufferedFd: known ? bufferedFd : undefined })
        const { u8 } = harness.memory
        u8.fill(operation === 'writev' ? 3 : 0xee, 0, 4096)
        assert.equal(harness.transfer(operation, [[0, 4096]], 0), known ? 4096 : -errno.EINVAL)
        assert.equal(harness.queue.submissions, known ? 3 : 2)
        if (known) {
          assert.equal(harness.transfer('readv', [[8192, 4096]], 0), 4096)
          assert.ok(u8.subarray(8192, 12288).every((byte) => byte === 3))
          assert.deepEqual(u8.slice(0, 4096), u8.slice(8192, 12288))
        }
        harness.close()
      }
    }
    close(fd)
    close(bufferedFd)
  }))

  test('without a second descriptor the flag means nothing', () => {
    const file = scratchFile('/dev/shm')
    const harness = new Harness(name, file.fd)
    assert.equal(harness.transfer('writev', [[1, 100]], 3, REQUEST_BUFFERED), 100)
    assert.equal(fileStatus(file.fd).size, 103)
    harness.close()
    file.remove()
  })

  test.run()
}

function durable (name: EngineName): void {
  const test = suite(`durable writes by ${name}`)

  test('reach the device with a flush of its cache, others do not', () => withLoopDevice({ directory: tmpdir(), bytes: 4096 * KIB }, (device) => {
    const fd = open(device.path, O_RDWR | O_DIRECT)
    const bufferedFd = open(device.path, O_RDWR)
    // Block layer statistics (Documentation/block/stat.rst): the 16th number counts flushes.
    const flushes = (): number => Number(readFileSync(`/sys/block/${device.name}/stat`, 'utf8').trim().split(/\s+/)[15])
    const harness = new Harness(name, fd, { bufferedFd })
    harness.memory.u8.fill(1, 0, 64 * KIB)
    for (const flags of [0, REQUEST_BUFFERED]) {
      const before = flushes()
      for (let write = 0; write < 5; write++) assert.equal(harness.transfer('writev', [[0, 4096], [8192, 4096]], write * 8192, flags), 8192)
      assert.equal(harness.transfer('readv', [[0, 4096]], 0, flags | REQUEST_DURABLE), 4096)
      assert.equal(flushes(), before)
      // A synchronous one may make Linux flush twice.
      let last = before
      for (let write = 1; write <= 5; write++) {
        assert.equal(harness.transfer('writev', [[0, 4096]], write * 4096, flags | REQUEST_DURABLE), 4096)
        assert.ok(flushes() > last)
        last = flushes()
      }
      assert.equal(harness.queue.flags[0], 0, 'the flag is of one request')
      assert.equal(harness.transfer('writev', [[0, 4096]], 0, flags), 4096)
      assert.equal(flushes(), last)
    }
    const before = flushes()
    assert.equal(harness.writeZeroes(0, 4096, true), 0)
    assert.equal(flushes(), before)
    assert.equal(harness.writeZeroes(4096, 4096, true, REQUEST_DURABLE), 0)
    assert.ok(flushes() > before)
    harness.close()

    const short = new Harness(name, fd, { plan: { rules: [{ at: 0, fault: { kind: 'short' } }] } })
    const last = flushes()
    assert.equal(short.transfer('writev', [[0, 8192]], 0, REQUEST_DURABLE), 8192)
    assert.ok(flushes() >= last + 2, 'the continuation of a short write too')
    short.close()
    close(fd)
    close(bufferedFd)
  }))

  test('one flush is for both descriptors', () => withLoopDevice({ directory: tmpdir(), bytes: 4096 * KIB }, async (device) => {
    const fd = open(device.path, O_RDWR | O_DIRECT)
    const bufferedFd = open(device.path, O_RDWR)
    const writes = (): number => Number(readFileSync(`/sys/block/${device.name}/stat`, 'utf8').trim().split(/\s+/)[6])
    const harness = new Harness(name, fd, { bufferedFd })
    harness.memory.u8.fill(1, 0, 64 * KIB)
    let before = 0
    // Now and then Linux writes the page cache back by itself, as soon as it is written: hardly each time.
    await eventually('sectors are in the page cache', () => {
      before = writes()
      assert.equal(harness.transfer('writev', [[0, 64 * KIB]], 0, REQUEST_BUFFERED), 64 * KIB)
      return writes() === before
    })
    assert.equal(harness.flush(), 0)
    assert.equal(writes() - before, 128, 'and on the device after a flush by the other descriptor')
    harness.close()
    close(fd)
    close(bufferedFd)
  }))

  test.run()
}
