// One suite for all engines, on a disk and on tmpfs, on a good day and with everything going wrong.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import {
  close, EPOLL_CTL_ADD, epollCreate, epollCtl, EPOLLIN, epollWait, errno, ftruncate, NativeMemory, open, O_DIRECT,
  O_RDONLY, platform, read
} from '@node-vmm/libc'
import { IoQueue, IoQueueError, openEngine, type EngineName } from '@node-vmm/ioq'
import type { FaultPlan } from '@node-vmm/ioq/testing'
import { availableEngines, badDay, Harness, scratchFile } from './support.ts'

for (const name of availableEngines()) {
  if (name !== 'mapped') conformance(`${name} on a disk`, name, tmpdir(), undefined)
  conformance(`${name} on tmpfs`, name, '/dev/shm', undefined)
  conformance(`${name} on a bad day`, name, '/dev/shm', badDay)
  errors(name)
  life(name)
}

function conformance (title: string, name: EngineName, directory: string, plan: FaultPlan | undefined): void {
  const test = suite(title)
  let file: ReturnType<typeof scratchFile>
  let harness: Harness
  test.before.each(() => {
    file = scratchFile(directory)
    harness = new Harness(name, file.fd, { plan })
  })
  test.after.each(() => {
    harness.close()
    file.remove()
  })

  test('writes and reads one segment', () => {
    harness.memory.u8.fill(0xa5, 0, 4096)
    assert.equal(harness.transfer('writev', [[0, 4096]], 8192), 4096)
    assert.equal(harness.transfer('readv', [[65536, 4096]], 8192), 4096)
    assert.deepEqual(harness.memory.u8.subarray(65536, 65536 + 4096), harness.memory.u8.subarray(0, 4096))
  })

  for (const count of [2, 8, 9, 1024]) {
    test(`gathers and scatters ${count} segments, empty ones among them`, () => {
      const pieces = Array.from({ length: count }, (_, index): [number, number] => [index * 512, (index * 37) % 200])
      const total = pieces.reduce((sum, [, length]) => sum + length, 0)
      harness.memory.u8.forEach((_, index, bytes) => { if (index < 524288) bytes[index] = index * 7 })
      assert.equal(harness.transfer('writev', pieces, 5), total)
      assert.equal(harness.transfer('readv', pieces.map(([at, length]) => [at + 524288, length]), 5), total)
      for (const [at, length] of pieces) {
        assert.deepEqual(harness.memory.u8.slice(at + 524288, at + 524288 + length), harness.memory.u8.slice(at, at + length))
      }
    })
  }

  test('reaches offsets above 4 GiB', () => {
    const offset = 5 * 2 ** 30 + 2 ** 32 * 3 + 12345
    ftruncate(file.fd, offset + 4096)
    harness.memory.u8.fill(1, 0, 512)
    assert.equal(harness.transfer('writev', [[0, 512]], offset), 512)
    assert.equal(harness.transfer('readv', [[512, 512]], offset - 512), 512)
    assert.ok(harness.memory.u8.subarray(512, 1024).every((byte) => byte === 0), 'the hole before it is empty')
    assert.equal(harness.transfer('readv', [[1024, 512]], offset), 512)
    assert.ok(harness.memory.u8.subarray(1024, 1536).every((byte) => byte === 1))
    assert.equal(harness.transfer('readv', [[1024, 512]], offset % 2 ** 32), 512)
    assert.ok(harness.memory.u8.subarray(1024, 1536).every((byte) => byte === 0), 'the offset was not cut to 32 bits')
  })

  test('fills what is past the end of the file with zeroes', () => {
    ftruncate(file.fd, 700)
    harness.memory.u8.fill(0xee)
    assert.equal(harness.transfer('readv', [[0, 500], [1000, 500], [2000, 24]], 0), 1024)
    assert.ok(harness.memory.u8.subarray(0, 500).every((byte) => byte === 0))
    assert.ok(harness.memory.u8.subarray(1000, 1500).every((byte) => byte === 0))
    assert.ok(harness.memory.u8.subarray(2000, 2024).every((byte) => byte === 0))
    assert.equal(harness.memory.u8[500], 0xee)
    assert.equal(harness.memory.u8[1500], 0xee)
    assert.equal(harness.memory.u8[2024], 0xee)
    assert.equal(harness.transfer('readv', [[0, 512]], 1e12), 512)
  })

  test('has every id in flight at once, and each completes once, whole', () => {
    const { queue, memory } = harness
    for (let id = 0; id < queue.depth; id++) memory.u8.fill(id + 1, id * 8192, id * 8192 + 4096)
    for (let id = 0; id < queue.depth; id++) {
      queue.writev(id, [{ address: memory.address + id * 8192, length: 1000 }, { address: memory.address + id * 8192 + 1000, length: 3096 }], id * 4096)
    }
    assert.equal(queue.inFlight, queue.depth)
    harness.finish()
    assert.equal(queue.completions, queue.depth)
    harness.results.clear()
    for (let id = 0; id < queue.depth; id++) queue.readv(id, [{ address: memory.address + id * 8192 + 4096, length: 4096 }], id * 4096)
    harness.finish()
    assert.equal(harness.results.size, queue.depth)
    for (let id = 0; id < queue.depth; id++) {
      assert.equal(harness.results.get(id), 4096)
      assert.ok(memory.u8.subarray(id * 8192 + 4096, (id + 1) * 8192).every((byte) => byte === id + 1), `request ${id}`)
    }
  })

  test('flushes', () => {
    harness.memory.u8.fill(3, 0, 512)
    assert.equal(harness.transfer('writev', [[0, 512]], 0), 512)
    assert.equal(harness.flush(), 0)
  })

  test('works through many requests whose callbacks submit the next', () => {
    const { memory } = harness
    let left = 500
    let bad = 0
    const queue: IoQueue = new IoQueue({
      fd: file.fd,
      depth: 4,
      engine: name,
      onComplete: (id, result) => {
        if (result !== 512) bad++
        if (left-- <= 0) return
        queue.writev(id, [{ address: memory.address + id * 512, length: 512 }], left * 512)
        if (left % 3 === 0) queue.submit()
      }
    })
    for (let id = 0; id < 4; id++) queue.writev(id, [{ address: memory.address, length: 512 }], id * 512)
    while (queue.inFlight > 0) {
      queue.submit()
      queue.reap()
    }
    assert.equal(bad, 0)
    assert.equal(queue.completions, 504)
    assert.equal(queue.close(), 0)
  })

  test('closed while it is quiet, it has no word of completions to ask for', () => {
    const { queue } = harness
    queue.disableNotification()
    queue.close()
    assert.equal(queue.enableNotification(), 'empty')
    queue.disableNotification()
    assert.equal(queue.enableNotification(), 'empty')
  })

  test('closed, it has no completions', () => {
    const { queue } = harness
    queue.close()
    assert.equal(queue.hasCompletions, false)
  })

  test('wakes an epoll by the completion descriptor', () => {
    const epoll = epollCreate()
    const { epollEventBytes } = platform()
    const scratch = new NativeMemory(epollEventBytes + 8)
    scratch.u32[0] = EPOLLIN
    epollCtl(epoll, EPOLL_CTL_ADD, harness.queue.completionFd, scratch.address)
    try {
      assert.equal(epollWait(epoll, scratch.address, 1, 0), 0)
      for (let round = 0; round < 40; round++) {
        // Every other time it asks for no word while it is awake.
        const isQuiet = round % 2 === 1
        if (isQuiet) harness.queue.disableNotification()
        harness.queue.readv(0, [{ address: harness.memory.address, length: 4096 }], 0)
        harness.queue.submit()
        while (harness.queue.inFlight > 0) {
          if (isQuiet) harness.queue.disableNotification()
          if (harness.queue.stalled) harness.queue.submit()
          else if (harness.queue.enableNotification() === 'empty') {
            const ready = epollWait(epoll, scratch.address, 1, 60_000)
            // A signal, or kernel work on behalf of io_uring, may interrupt the wait.
            if (ready !== -errno.EINTR) assert.equal(ready, 1, `round ${round}`)
          }
          read(harness.queue.completionFd, scratch.address + epollEventBytes, 8)
          harness.queue.reap()
        }
      }
    } finally {
      close(epoll)
      scratch.close()
    }
  })

  test('does random work as a plain array does', () => {
    const { queue, memory } = harness
    const model = new Uint8Array(1 << 16)
    ftruncate(file.fd, model.length)
    let state = 1
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return (state >>> 8) % below
    }
    for (let round = 0; round < 40; round++) {
      // Requests of one round go to ranges of their own, as those of a disk's users do.
      const expected: [id: number, at: number, length: number][] = []
      for (let id = 0; id < 16; id++) {
        const offset = id * 4096 + random(2048)
        const length = 1 + random(2048)
        const split = random(length)
        const at = id * 4096
        const pieces = [{ address: memory.address + at, length: split }, { address: memory.address + at + split, length: length - split }]
        if (random(2) === 0) {
          memory.u8.fill(random(256), at, at + length)
          model.set(memory.u8.subarray(at, at + length), offset)
          queue.writev(id, pieces, offset)
        } else {
          memory.u8.fill(0xff, at, at + length)
          expected.push([id, offset, length])
          queue.readv(id, pieces, offset)
        }
      }
      harness.finish()
      for (const [id, offset, length] of expected) {
        assert.deepEqual(memory.u8.slice(id * 4096, id * 4096 + length), model.slice(offset, offset + length), `round ${round}`)
      }
    }
  })

  test.run()
}

function errors (name: EngineName): void {
  const test = suite(`errors by ${name}`)

  // This one looks at the file when it is made.
  if (name === 'mapped') {
    test('a bad descriptor is the error EBADF', () => {
      assert.throws(() => new Harness(name, 1_000_000), { name: 'LinuxError', code: 'EBADF' })
    })
  } else test('a bad descriptor is the result EBADF', () => {
    const harness = new Harness(name, 1_000_000)
    assert.equal(harness.transfer('readv', [[0, 512]], 0), -errno.EBADF)
    assert.equal(harness.flush(), -errno.EBADF)
    harness.close()
  })

  test('a file that is not open for writing is the result EBADF', () => {
    const file = scratchFile('/dev/shm')
    const readOnly = open(file.path, O_RDONLY)
    const harness = new Harness(name, readOnly)
    assert.equal(harness.transfer('writev', [[0, 512]], 0), -errno.EBADF)
    harness.close()
    close(readOnly)
    file.remove()
  })

  test('memory that is not there is the result EFAULT, for data and for zeroes', () => {
    const file = scratchFile('/dev/shm')
    const harness = new Harness(name, file.fd)
    harness.queue.readv(0, [{ address: 4096, length: 512 }], 0)
    harness.queue.writev(1, [{ address: 4096, length: 512 }], 0)
    harness.finish()
    assert.equal(harness.results.get(0), -errno.EFAULT)
    assert.equal(harness.results.get(1), -errno.EFAULT)
    harness.close()
    file.remove()
  })

  test('a request that the kernel refuses fails alone, wherever it is in the batch', () => {
    const file = scratchFile('/dev/shm')
    const harness = new Harness(name, file.fd)
    const { queue, memory } = harness
    for (let id = 0; id < 9; id++) {
      queue.writev(id, [{ address: memory.address, length: 512 }, { address: memory.address, length: 512 }], id * 1024)
      // A length of 2^63 and more is negative to the kernel: EINVAL.
      if (id % 4 === 0) queue.iovecs[id * 32 + 3] = 0x80000000
    }
    harness.finish()
    for (let id = 0; id < 9; id++) assert.equal(harness.results.get(id), id % 4 === 0 ? -errno.EINVAL : 1024, `request ${id}`)
    harness.close()
    file.remove()
  })

  test('a full file system is the result ENOSPC', () => {
    const directory = mkdtempSync(`${tmpdir()}/node-vmm-ioq-`)
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory])
    if (mounted.status !== 0) {
      console.log('skipped: the test for ENOSPC mounts a small tmpfs, which takes privileges')
      rmdirSync(directory)
      return
    }
    try {
      const file = scratchFile(directory)
      const harness = new Harness(name, file.fd)
      assert.equal(harness.transfer('writev', [[0, 49152]], 0), 49152)
      // Its first half has room: what was moved does not make the request a success.
      assert.equal(harness.transfer('writev', [[0, 32768]], 49152), -errno.ENOSPC)
      harness.close()
      file.remove()
    } finally {
      spawnSync('umount', [directory])
      rmdirSync(directory)
    }
  })

  test('an error that comes with the completion is the result', () => {
    const file = scratchFile('/dev/shm')
    for (const code of ['EIO', 'ENOSPC', 'ETIMEDOUT'] as const) {
      const harness = new Harness(name, file.fd, { plan: { rules: [{ at: 1, fault: { kind: 'error', code } }] } })
      assert.equal(harness.transfer('writev', [[0, 512]], 0), 512)
      assert.equal(harness.transfer('writev', [[0, 512]], 0), -errno[code])
      assert.equal(harness.transfer('writev', [[0, 512]], 0), 512)
      harness.close()
    }
    file.remove()
  })

  test('EINVAL for the rest of a read means the end of the file only there', () => {
    // What file systems say to a read with O_DIRECT that goes on from an end off the block boundary.
    const file = scratchFile('/dev/shm')
    ftruncate(file.fd, 700)
    const plan: FaultPlan = { rules: [{ at: 1, fault: { kind: 'error', code: 'EINVAL' } }] }
    const harness = new Harness(name, file.fd, { plan })
    harness.memory.u8.fill(0xee)
    assert.equal(harness.transfer('readv', [[0, 1024]], 0), 1024)
    assert.ok(harness.memory.u8.subarray(0, 1024).every((byte) => byte === 0))
    harness.close()
    const short = new Harness(name, file.fd, { plan: { rules: [{ at: 0, fault: { kind: 'short' } }, ...plan.rules] } })
    assert.equal(short.transfer('readv', [[0, 600]], 0), -errno.EINVAL)
    short.close()
    file.remove()
  })

  if (name !== 'mapped') test('with O_DIRECT, an end of the file inside a block is filled up', () => {
    let file
    try {
      file = scratchFile(tmpdir(), O_DIRECT)
    } catch {
      console.log('skipped: no O_DIRECT in the temporary directory')
      return
    }
    const harness = new Harness(name, file.fd)
    assert.equal(harness.transfer('writev', [[0, 8192]], 0), 8192)
    ftruncate(file.fd, 4096 + 100)
    harness.memory.u8.fill(0xee)
    assert.equal(harness.transfer('readv', [[0, 4096], [8192, 8192]], 0), 12288)
    assert.ok(harness.memory.u8.subarray(0, 4096).every((byte) => byte === 0))
    assert.ok(harness.memory.u8.subarray(8192, 16384).every((byte) => byte === 0))
    assert.equal(harness.memory.u8[16384], 0xee)
    assert.equal(harness.transfer('readv', [[0, 4096]], 100), -errno.EINVAL, 'a misaligned offset is still an error')
    harness.close()
    file.remove()
  })

  test.run()
}

function life (name: EngineName): void {
  const test = suite(`the life of a queue on ${name}`)
  let file: ReturnType<typeof scratchFile>
  test.before.each(() => { file = scratchFile('/dev/shm') })
  test.after.each(() => file.remove())

  test('nothing reaches the kernel before submit, and a batch takes one system call', () => {
    ftruncate(file.fd, 32 * 512)
    const harness = new Harness(name, file.fd)
    for (let id = 0; id < 32; id++) harness.queue.writev(id, [{ address: harness.memory.address, length: 512 }], id * 512)
    assert.equal(harness.queue.systemCalls, 0)
    assert.equal(harness.queue.submissions, 0)
    assert.equal(harness.queue.reap(), 0)
    harness.queue.submit()
    assert.equal(harness.queue.submissions, 32)
    // The blocking engine makes one for each, copying takes a look at the size. What is complete already is announced with one more.
    assert.equal(harness.queue.systemCalls, ({ mapped: 3, 'io_uring+linux-aio': 1, io_uring: 1, 'linux-aio': 2, sync: 33 })[name])
    harness.finish()
    harness.close()
  })

  test('a part of what is prepared may be read, and no more', () => {
    const harness = new Harness(name, file.fd)
    const { queue, memory } = harness
    const word = queue.prepare(3, 20)
    for (let segment = 0; segment < 2; segment++) {
      queue.iovecs.set([memory.address % 2 ** 32, memory.address / 2 ** 32, 256, 0], word + segment * 4)
    }
    queue.offset[3] = 0
    assert.throws(() => queue.read(3, 21), { name: 'RangeError', message: /prepared for 20 segments: not 21/ })
    queue.read(3, 2)
    harness.finish()
    assert.equal(harness.results.get(3), 512)
    assert.throws(() => queue.read(3, 1), { name: 'RangeError', message: /prepared for 0 segments/ })
    harness.close()
  })

  test('misuse is told', () => {
    const harness = new Harness(name, file.fd, { segmentsMax: 4 })
    const { queue } = harness
    for (const id of [-1, 64, 1.5, NaN]) assert.throws(() => queue.prepare(id, 1), { name: 'RangeError', message: /request id is 0 to 63/ })
    for (const count of [0, 5, 1.5]) assert.throws(() => queue.prepare(0, count), { name: 'RangeError', message: /segments is 1 to 4/ })
    for (const offset of [-1, 0.5, NaN, 2 ** 53]) {
      assert.throws(() => queue.readv(0, [{ address: 4096, length: 1 }], offset), { name: 'RangeError', message: /offset/ })
    }
    queue.flush(7)
    assert.throws(() => queue.flush(7), { name: 'IoQueueError', code: 'ERR_IO_QUEUE_BUSY' })
    assert.throws(() => queue.prepare(7, 1), IoQueueError)
    harness.close()
    for (const use of [() => queue.submit(), () => queue.reap(), () => queue.flush(0), () => queue.prepare(0, 1)]) {
      assert.throws(use, { name: 'IoQueueError', code: 'ERR_IO_QUEUE_CLOSED' })
    }
    assert.equal(queue.iovecs.length, 0)
    const onComplete = (): void => {}
    for (const depth of [0, 32769, 2.5]) assert.throws(() => new IoQueue({ fd: file.fd, depth, engine: name, onComplete }), /depth is 1 to 32768/)
    const { engine } = openEngine(name, { fd: file.fd, depth: 4 })
    assert.throws(() => new IoQueue({ fd: file.fd, depth: 5, engine, onComplete }), /1 to 4: not 5/)
    engine.close()
  })

  test('close brings in what is queued and in flight', () => {
    const harness = new Harness(name, file.fd)
    for (let id = 0; id < 8; id++) harness.queue.writev(id, [{ address: harness.memory.address, length: 512 }], id * 512)
    harness.queue.submit()
    harness.queue.flush(8)
    assert.equal(harness.queue.close(), 0)
    assert.equal(harness.results.size, 9)
    assert.equal(harness.queue.close(), 0, 'closing twice has no effect')
    harness.memory.close()
  })

  test('close gives up on what never comes back, says how many, and leaves memory mapped', () => {
    const plan: FaultPlan = { rules: [{ at: 1, fault: { kind: 'never' } }] }
    const harness = new Harness(name, file.fd, { plan })
    for (let id = 0; id < 3; id++) harness.queue.writev(id, [{ address: harness.memory.address, length: 512 }], id * 512)
    const { iovecs } = harness.queue
    const started = performance.now()
    assert.equal(harness.queue.close({ timeout: 50 }), 1)
    assert.ok(performance.now() - started >= 50)
    assert.equal(harness.results.size, 2)
    assert.equal(iovecs[32 + 2], 512, 'the iovec of the lost request is still there')
    harness.memory.close()
  })

  test('what a callback throws comes out of reap and loses nothing', () => {
    const memory = new NativeMemory(512)
    const seen: number[] = []
    const queue = new IoQueue({
      fd: file.fd,
      depth: 4,
      engine: name,
      onComplete: (id) => {
        seen.push(id)
        if (seen.length === 2) throw new Error('from a callback')
      }
    })
    for (let id = 0; id < 4; id++) queue.writev(id, [{ address: memory.address, length: 512 }], id * 512)
    queue.submit()
    assert.throws(() => { while (queue.inFlight > 0) queue.reap() }, /from a callback/)
    while (queue.inFlight > 0) queue.reap()
    assert.deepEqual(seen.sort(), [0, 1, 2, 3])
    assert.equal(queue.close(), 0)
    memory.close()
  })

  test('a callback may close the queue', () => {
    const memory = new NativeMemory(512)
    const queue: IoQueue = new IoQueue({ fd: file.fd, depth: 4, engine: name, onComplete: () => { queue.close() } })
    for (let id = 0; id < 4; id++) queue.writev(id, [{ address: memory.address, length: 512 }], id * 512)
    queue.submit()
    while (queue.completions < 4) queue.reap()
    assert.throws(() => queue.reap(), { code: 'ERR_IO_QUEUE_CLOSED' })
    memory.close()
  })

  test('does not run full over 200,000 requests', () => {
    const harness = new Harness(name, file.fd, { depth: 32 })
    const { queue, memory } = harness
    ftruncate(file.fd, 512)
    for (let round = 0; round < 6250; round++) {
      for (let id = 0; id < 32; id++) {
        const word = queue.prepare(id, 1)
        queue.iovecs[word] = memory.address
        queue.iovecs[word + 1] = memory.address / 2 ** 32
        queue.iovecs[word + 2] = 512
        queue.offset[id] = 0
        queue.read(id, 1)
      }
      queue.submit()
      while (queue.inFlight > 0) queue.reap()
    }
    assert.equal(queue.completions, 200_000)
    harness.close()
  })

  test.run()
}
