// Discard and write zeroes, by all engines, on what has all ways, some and none of making zeroes.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { close, errno, fallocate, FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE, fileStatus, ftruncate, O_DIRECT, O_RDONLY, O_RDWR, open } from '@node-vmm/libc'
import { type EngineName, IoQueueError, REQUEST_DURABLE } from '@node-vmm/ioq'
import type { FaultPlan, FaultRule } from '@node-vmm/ioq/testing'
import { type LoopDevice, withLoopDevice } from '../../../test/support/loop-device.ts'
import { availableEngines, badDay, Harness, scratchFile } from './support.ts'

const MIB = 1 << 20
const KIB = 1024

for (const name of availableEngines()) {
  if (name !== 'mapped') onFiles(`ranges by ${name} on a disk`, name, tmpdir())
  onFiles(`ranges by ${name} on tmpfs`, name, '/dev/shm')
  onFiles(`ranges by ${name} on a bad day`, name, '/dev/shm', badDay)
  if (name !== 'mapped') withoutHoles(name)
  refusals(name)
  if (name !== 'mapped') onBlockDevices(name)
}

function isFilled (bytes: Uint8Array, value: number): boolean {
  return Buffer.alloc(bytes.length, value).equals(bytes)
}

function onFiles (title: string, name: EngineName, directory: string, plan?: FaultPlan): void {
  const test = suite(title)
  let file: ReturnType<typeof scratchFile>
  let harness: Harness
  const allocated = (): number => fileStatus(file.fd).allocated
  // One queue for all: with Linux AIO each would start a thread.
  test.before(() => {
    file = scratchFile(directory)
    harness = new Harness(name, file.fd, { plan, bytes: 2 * MIB })
    harness.memory.u8.fill(0xa5, 0, MIB)
  })
  test.after(() => {
    harness.close()
    file.remove()
  })
  test.before.each(() => {
    ftruncate(file.fd, 0)
    assert.equal(harness.transfer('writev', [[0, MIB]], 0), MIB)
    // A file system may allocate only when it writes back.
    assert.equal(harness.flush(), 0)
  })

  const contents = (offset: number, length: number): Uint8Array => {
    harness.memory.u8.fill(0xee, MIB, MIB + length)
    assert.equal(harness.transfer('readv', [[MIB, length]], offset), length)
    return harness.memory.u8.slice(MIB, MIB + length)
  }

  test('discard gives the space back, and zeroes are read', () => {
    const before = allocated()
    assert.equal(harness.discard(256 * KIB, 512 * KIB), 0)
    assert.equal(before - allocated(), 512 * KIB)
    assert.equal(fileStatus(file.fd).size, MIB)
    assert.ok(isFilled(contents(0, 256 * KIB), 0xa5))
    assert.ok(isFilled(contents(256 * KIB, 512 * KIB), 0))
    assert.ok(isFilled(contents(768 * KIB, 256 * KIB), 0xa5))
  })

  test('write zeroes with unmap gives the space back', () => {
    const before = allocated()
    assert.equal(harness.writeZeroes(0, MIB, true), 0)
    assert.equal(before - allocated(), MIB)
    assert.ok(isFilled(contents(0, MIB), 0))
  })

  test('write zeroes without unmap keeps the space, and takes it where there was none', () => {
    const before = allocated()
    assert.equal(harness.writeZeroes(0, 512 * KIB, false), 0)
    assert.equal(harness.flush(), 0)
    assert.ok(allocated() >= before)
    assert.ok(isFilled(contents(0, 512 * KIB), 0))
    assert.ok(isFilled(contents(512 * KIB, 512 * KIB), 0xa5))
    assert.equal(harness.discard(0, MIB), 0)
    assert.equal(allocated(), before - MIB)
    assert.equal(harness.writeZeroes(0, MIB, false), 0)
    assert.equal(harness.flush(), 0)
    assert.ok(allocated() >= before)
  })

  test('ranges are exact to the byte', () => {
    const model = new Uint8Array(64 * KIB).fill(0xa5)
    for (const [offset, length, how] of [[1, 100, 0], [4095, 2, 1], [8191, 4098, 2], [20000, 20000, 0], [50000, 1, 2], [60001, 5000, 1]] as const) {
      const result = how === 0 ? harness.discard(offset, length) : harness.writeZeroes(offset, length, how === 1)
      assert.equal(result, 0)
      model.fill(0, offset, offset + length)
      assert.deepEqual(contents(0, model.length), model)
    }
  })

  test('offsets and lengths have 53 bits', () => {
    const far = 5 * 2 ** 32 + 12288
    ftruncate(file.fd, far + 8192)
    assert.equal(harness.transfer('writev', [[0, 8192]], far), 8192)
    assert.equal(harness.writeZeroes(far, 4096, true), 0)
    assert.ok(isFilled(contents(far, 4096), 0))
    assert.ok(isFilled(contents(far + 4096, 4096), 0xa5))
    assert.ok(isFilled(contents(0, 16384), 0xa5), 'the offset was not cut to 32 bits')
    assert.equal(harness.discard(512 * KIB, far), 0)
    assert.ok(isFilled(contents(far, 8192).subarray(0, 4096), 0))
    assert.ok(isFilled(contents(0, 512 * KIB), 0xa5))
    assert.ok(isFilled(contents(512 * KIB, 512 * KIB), 0), 'nor the length')
  })

  test('more than one piece of zeroes', () => {
    const length = 3 * MIB + 12345
    ftruncate(file.fd, 4 * MIB)
    for (let at = 0; at < 4; at++) assert.equal(harness.transfer('writev', [[0, MIB]], at * MIB), MIB)
    assert.equal(harness.writeZeroes(777, length, false), 0)
    assert.ok(isFilled(contents(0, 777), 0xa5))
    for (let at = 777; at < 777 + length; at += MIB) assert.ok(isFilled(contents(at, Math.min(MIB, 777 + length - at)), 0))
    assert.ok(isFilled(contents(777 + length, 4096), 0xa5))
    assert.equal(fileStatus(file.fd).size, 4 * MIB)
  })

  test('an empty range is done', () => {
    assert.equal(harness.discard(0, 0), 0)
    assert.equal(harness.writeZeroes(4096, 0, false, REQUEST_DURABLE), 0)
    assert.ok(isFilled(contents(0, 8192), 0xa5))
  })

  test('durable zeroes are flushed, unless they were written durably', () => {
    const before = harness.queue.completions
    assert.equal(harness.writeZeroes(0, 4096, true, REQUEST_DURABLE), 0)
    assert.equal(harness.writeZeroes(4096, 4096, false, REQUEST_DURABLE), 0)
    assert.equal(harness.queue.completions - before, 2)
    assert.equal(harness.queue.flags[0], 0)
    assert.ok(isFilled(contents(0, 8192), 0))
  })

  test('all kinds of requests share a batch', () => {
    const { queue, memory } = harness
    for (let round = 0; round < 10; round++) {
      harness.results.clear()
      for (let id = 0; id < queue.depth; id++) {
        const offset = id * 16 * KIB
        queue.offset[id] = offset
        queue.length[id] = 8 * KIB
        if (id % 5 === 0) queue.discard(id)
        else if (id % 5 === 1) queue.writeZeroes(id, true)
        else if (id % 5 === 2) queue.writeZeroes(id, false)
        else if (id % 5 === 3) queue.flush(id)
        else queue.writev(id, [{ address: memory.address, length: 4096 }], offset)
      }
      harness.finish()
      assert.equal(harness.results.size, queue.depth)
      for (let id = 0; id < queue.depth; id++) {
        assert.equal(harness.results.get(id), id % 5 === 4 ? 4096 : 0, `request ${id}`)
        assert.ok(isFilled(contents(id * 16 * KIB, 8 * KIB), id % 5 < 3 ? 0 : 0xa5))
        assert.ok(isFilled(contents(id * 16 * KIB + 8 * KIB, 8 * KIB), 0xa5))
      }
      assert.equal(harness.transfer('writev', [[0, MIB]], 0), MIB)
    }
  })

  test('misuse is told', () => {
    const { queue } = harness
    for (const [offset, length] of [[-1, 1], [0, -1], [0.5, 1], [0, NaN], [2 ** 53, 1], [2 ** 53 - 1, 1]] as const) {
      queue.offset[1] = offset
      queue.length[1] = length
      assert.throws(() => queue.discard(1), { name: 'RangeError', message: /a range has an offset, a length and an end of 0 to 2\^53 - 1/ })
      assert.throws(() => queue.writeZeroes(1, true), { name: 'RangeError' })
    }
    assert.equal(queue.inFlight, 0)
    queue.offset[1] = 0
    queue.length[1] = 512
    queue.discard(1)
    assert.throws(() => queue.discard(1), { name: 'IoQueueError', code: 'ERR_IO_QUEUE_BUSY' })
    assert.throws(() => queue.writeZeroes(1, false), IoQueueError)
    harness.finish()
    assert.throws(() => queue.discard(64), { name: 'RangeError' })
  })

  test.run()
}

function withoutHoles (name: EngineName): void {
  const test = suite(`ranges by ${name} without holes`)

  test('ramfs: a discard is refused, zeroes are written', () => {
    const directory = mkdtempSync(`${tmpdir()}/node-vmm-ioq-`)
    if (spawnSync('mount', ['-t', 'ramfs', 'ramfs', directory]).status !== 0) {
      console.log('skipped: the test of a file system without holes mounts a ramfs, which takes privileges')
      rmdirSync(directory)
      return
    }
    try {
      const file = scratchFile(directory)
      const harness = new Harness(name, file.fd, { bytes: 4 * MIB })
      harness.memory.u8.fill(1, 0, 2 * MIB)
      assert.equal(harness.transfer('writev', [[0, 2 * MIB]], 0), 2 * MIB)
      const { queue } = harness
      for (let round = 0; round < 2; round++) {
        const before = queue.submissions
        assert.equal(harness.discard(0, 4096), -errno.EOPNOTSUPP)
        assert.equal(queue.submissions - before, round === 0 ? 1 : 0, 'the kernel is asked once')
      }
      assert.equal(harness.writeZeroes(100, MIB + 1, true), 0)
      const before = queue.submissions
      assert.equal(harness.writeZeroes(MIB + 101, 1000, false), 0)
      assert.equal(queue.submissions - before, 1, 'nor for zeroed ranges again')
      assert.equal(harness.transfer('readv', [[2 * MIB, 2 * MIB]], 0), 2 * MIB)
      const read = harness.memory.u8.subarray(2 * MIB)
      assert.ok(isFilled(read.subarray(0, 100), 1))
      assert.ok(isFilled(read.subarray(100, MIB + 1101), 0))
      assert.ok(isFilled(read.subarray(MIB + 1101), 1))
      harness.close()
      file.remove()
    } finally {
      spawnSync('umount', [directory])
      rmdirSync(directory)
    }
  })

  test.run()
}

function refusals (name: EngineName): void {
  const test = suite(`ranges refused by ${name}`)
  let file: ReturnType<typeof scratchFile>
  test.before.each(() => {
    file = scratchFile('/dev/shm')
    ftruncate(file.fd, MIB)
  })
  test.after.each(() => file.remove())

  test('EOPNOTSUPP: a discard fails with it, zeroes are had another way', () => {
    const harness = new Harness(name, file.fd, {
      plan: { rules: [
        { operation: 'discard', fault: { kind: 'error', code: 'EOPNOTSUPP' } },
        { operation: 'writeZeroes', fault: { kind: 'error', code: 'EOPNOTSUPP' } }
      ] }
    })
    harness.memory.u8.fill(7, 0, 4096)
    assert.equal(harness.transfer('writev', [[0, 4096]], 0), 4096)
    assert.equal(harness.discard(0, 4096), -errno.EOPNOTSUPP)
    assert.equal(harness.writeZeroes(0, 2048, true), 0)
    assert.equal(harness.transfer('readv', [[0, 4096]], 0), 4096)
    assert.ok(isFilled(harness.memory.u8.subarray(0, 2048), 0))
    assert.ok(isFilled(harness.memory.u8.subarray(2048, 4096), 7))
    harness.close()
  })

  test('other errors are the result', () => {
    const codes = ['EIO', 'ENOSPC', 'EPERM'] as const
    const rules = codes.flatMap((code, index) => (['discard', 'writeZeroes'] as const).map((operation): FaultRule =>
      ({ operation, at: 2 * index, fault: { kind: 'error', code } })))
    const harness = new Harness(name, file.fd, { plan: { rules } })
    for (const code of codes) {
      assert.equal(harness.discard(0, 4096), -errno[code])
      assert.equal(harness.writeZeroes(0, 4096, true), -errno[code])
      assert.equal(harness.discard(0, 4096), 0, 'the next one is tried')
      assert.equal(harness.writeZeroes(0, 4096, true), 0)
    }
    harness.close()
  })

  test('an error of the zeroes that are written is the result', () => {
    const harness = new Harness(name, file.fd, { plan: { rules: [{ operation: 'write', at: 1, fault: { kind: 'error', code: 'ENOSPC' } }] } })
    assert.equal(harness.writeZeroes(0, 2 * MIB, false), -errno.ENOSPC)
    assert.equal(harness.writeZeroes(0, MIB, false), 0, 'the id is free and whole again')
    harness.close()
  })

  test('durable zeroes fail where their flush does', () => {
    const harness = new Harness(name, file.fd, { plan: { rules: [{ operation: 'flush', fault: { kind: 'error', code: 'EIO' } }] } })
    assert.equal(harness.writeZeroes(0, 4096, true), 0)
    assert.equal(harness.writeZeroes(0, 4096, true, REQUEST_DURABLE), -errno.EIO)
    harness.close()
  })

  // This one looks at the file when it is made.
  if (name !== 'mapped') test('a bad descriptor', () => {
    const bad = new Harness(name, 1_000_000)
    assert.equal(bad.discard(0, 4096), -errno.EBADF)
    assert.equal(bad.writeZeroes(0, 4096, false), -errno.EBADF)
    bad.close()
  })

  test('a descriptor that is not open for writing', () => {
    const fd = open(file.path, O_RDONLY)
    const readOnly = new Harness(name, fd)
    assert.equal(readOnly.discard(0, 4096), -errno.EBADF)
    readOnly.close()
    close(fd)
  })

  test.run()
}

function onBlockDevices (name: EngineName): void {
  const test = suite(`ranges by ${name} on block devices`)

  type Body = (harness: Harness, device: LoopDevice, fd: number) => void
  const withDevice = (directory: string, logicalBlockBytes: number, flags: number, body: Body): Promise<void> => withLoopDevice({ directory, bytes: 8 * MIB, logicalBlockBytes }, (device) => {
    const fd = open(device.path, O_RDWR | flags)
    const bufferedFd = open(device.path, O_RDWR)
    const harness = new Harness(name, fd, { bytes: 2 * MIB, bufferedFd })
    try {
      harness.memory.u8.fill(0xa5, 0, MIB)
      for (let at = 0; at < 8; at++) assert.equal(harness.transfer('writev', [[0, MIB]], at * MIB), MIB)
      assert.equal(harness.flush(), 0)
      body(harness, device, fd)
    } finally {
      harness.close()
      close(fd)
      close(bufferedFd)
    }
  })

  const behind = (device: LoopDevice): number => {
    const fd = open(device.file, O_RDONLY)
    const { allocated } = fileStatus(fd)
    close(fd)
    return allocated
  }

  const read = (harness: Harness, offset: number, length: number): Uint8Array => {
    assert.equal(harness.transfer('readv', [[MIB, length]], offset), length)
    return harness.memory.u8.slice(MIB, MIB + length)
  }

  for (const flags of [0, O_DIRECT]) {
    for (const blockBytes of [512, 4096]) {
      test(`blocks of ${blockBytes}, ${flags === 0 ? 'through the page cache' : 'with O_DIRECT'}`, () => withDevice(tmpdir(), blockBytes, flags, (harness, device) => {
        const before = behind(device)
        assert.equal(harness.discard(0, MIB), 0)
        assert.equal(before - behind(device), MIB)
        assert.ok(isFilled(read(harness, 0, MIB), 0))
        assert.equal(harness.writeZeroes(MIB, MIB, true), 0)
        assert.equal(before - behind(device), 2 * MIB)
        assert.ok(isFilled(read(harness, MIB, MIB), 0))
        assert.equal(harness.writeZeroes(2 * MIB, MIB, false), 0)
        assert.equal(harness.flush(), 0)
        assert.ok(before - behind(device) <= 2 * MIB)
        assert.ok(isFilled(read(harness, 2 * MIB, MIB), 0))
        assert.ok(isFilled(read(harness, 3 * MIB, MIB), 0xa5))
      }))
    }

    test(`what is not whole blocks, ${flags === 0 ? 'through the page cache' : 'with O_DIRECT'}`, () => withDevice(tmpdir(), 4096, flags, (harness) => {
      assert.equal(harness.discard(512, 1024), -errno.EINVAL)
      assert.ok(isFilled(read(harness, 0, 4096), 0xa5))
      for (const unmap of [true, false]) {
        assert.equal(harness.writeZeroes(512, 8192, unmap), 0)
        assert.ok(isFilled(read(harness, 0, 512), 0xa5))
        assert.ok(isFilled(read(harness, 512, 8192), 0))
        assert.ok(isFilled(read(harness, 8704, 4096), 0xa5))
        assert.equal(harness.transfer('writev', [[0, 16384]], 0), 16384)
      }
      assert.equal(harness.discard(0, 4096), 0, 'one bad range is no reason to give up discards')
      assert.equal(harness.flush(), 0)
    }))
  }

  test('a device that can discard and cannot zero by it', () => withDevice('/dev/shm', 512, 0, (harness, device, fd) => {
    // tmpfs cannot zero a range and keep its space: told so, the loop device gives up all zeroing.
    assert.equal(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, MIB), 0)
    assert.equal(harness.flush(), 0)
    const before = behind(device)
    for (let round = 1; round <= 3; round++) {
      const submissions = harness.queue.submissions
      assert.equal(harness.discard(round * MIB, MIB), 0)
      assert.equal(before - behind(device), round * MIB)
      assert.equal(harness.queue.submissions - submissions, round === 1 ? 2 : 1)
    }
    assert.equal(harness.discard(7 * MIB, 2 * MIB), -errno.EINVAL, 'past the end')
  }))

  test.run()
}
