import assert from 'node:assert/strict'
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import { ftruncate, LinuxError } from '@node-vmm/libc'
import { ByDepthEngine, FileMap, IoQueue, IoUringEngine, LinuxAioEngine, MappedEngine, openEngine, SyncEngine, type Engine } from '@node-vmm/ioq'
import { FaultyEngine } from '@node-vmm/ioq/testing'
import { eventually } from '../../../test/support/eventually.ts'
import { runWithFewDescriptors } from '../../../test/support/few-descriptors.ts'
import { whyNotMap } from '../src/first-use.ts'
import { engineNames, scratchFile } from './support.ts'

const test = suite('engines')
let file: ReturnType<typeof scratchFile>
test.before.each(() => { file = scratchFile('/dev/shm') })
test.after.each(() => file.remove())

function onDisk (use: (fd: number) => void): void {
  const fd = openSync(fileURLToPath(import.meta.url), 'r')
  try {
    use(fd)
  } finally {
    closeSync(fd)
  }
}

test('auto takes the best that can be had and says why not a better one', () => {
  // The kernel counts all the requests that Linux AIO contexts are made for, so this much is refused to everybody.
  const aioMax = Number(readFileSync('/proc/sys/fs/aio-max-nr', 'utf8'))
  onDisk((fd) => {
    const { engine, rejected } = openEngine('auto', { fd, depth: 16 })
    const order = ['io_uring', 'linux-aio', 'sync']
    assert.deepEqual(rejected.map((entry) => entry.engine), order.slice(0, order.indexOf(engine.name)))
    for (const { reason } of rejected) assert.match(reason, /io_uring_setup|io_setup/)
    engine.close()
    // No io_uring has more than 32768 entries either.
    const large = openEngine('auto', { fd, depth: Math.max(aioMax + 1, 32769) })
    assert.equal(large.engine.name, 'sync')
    assert.deepEqual(large.rejected.map((entry) => entry.engine), ['io_uring', 'linux-aio'])
    assert.match(large.rejected[0]!.reason, /^io_uring_setup for \d+ requests: EINVAL/)
    assert.match(large.rejected[1]!.reason, /^io_setup for \d+ requests: E(AGAIN, .*fs\.aio-max-nr|INVAL)/)
    large.engine.close()
  })
})

test('auto maps a file in memory where the machine does not speak against it, and asks Linux AIO next', () => {
  const best = openEngine('auto', { fd: file.fd, depth: 16 })
  best.engine.close()
  const reason = whyNotMap()
  if (reason === undefined) assert.deepEqual([best.engine.name, best.rejected], ['mapped', []])
  else assert.deepEqual([best.engine.name, best.rejected], ['linux-aio', [{ engine: 'mapped', reason }]])
})

test('what somebody has mapped is used so', () => {
  const map = FileMap.create(file.fd)
  const { engine, rejected } = openEngine('auto', { fd: file.fd, depth: 16, map: map.data })
  assert.deepEqual([engine.name, rejected], ['mapped', []])
  engine.close()
  map.close()
})

test('a file in memory that cannot be mapped is not', () => {
  ftruncate(file.fd, 2 ** 40 + 4096)
  const { engine, rejected } = openEngine('auto', { fd: file.fd, depth: Number(readFileSync('/proc/sys/fs/aio-max-nr', 'utf8')) + 1 })
  engine.close()
  assert.deepEqual(rejected.slice(0, 2).map((entry) => entry.engine), ['mapped', 'linux-aio'])
  const tooLarge = /^mmap of fd \d+, of 1099511631872 bytes: EFBIG.*up to 1 TiB is mapped/
  if (whyNotMap() === undefined) assert.match(rejected[0]!.reason, tooLarge)
  assert.throws(() => openEngine('mapped', { fd: file.fd, depth: 16 }), { name: 'LinuxError', message: tooLarge })
})

test('no-io_uring is auto without io_uring, in memory or not', () => {
  onDisk((fd) => {
    const { engine, rejected } = openEngine('no-io_uring', { fd, depth: 16 })
    assert.deepEqual([engine.name, rejected], ['linux-aio', []])
    engine.close()
  })
  const inMemory = openEngine('no-io_uring', { fd: file.fd, depth: 16 })
  inMemory.engine.close()
  const auto = openEngine('auto', { fd: file.fd, depth: 16 })
  auto.engine.close()
  assert.deepEqual([inMemory.engine.name, inMemory.rejected], [auto.engine.name, auto.rejected])
})

test('a named engine that cannot be had is an error with the remedy', () => {
  const aioMax = Number(readFileSync('/proc/sys/fs/aio-max-nr', 'utf8'))
  assert.throws(() => openEngine('linux-aio', { fd: file.fd, depth: aioMax + 1 }),
    (error) => error instanceof LinuxError && error.code === 'EAGAIN' && /raise fs\.aio-max-nr/.test(error.message))
})

test('an engine made by the caller is used, and closed with the queue', () => {
  let closed = 0
  class Counting extends SyncEngine {
    override close (): void {
      closed++
      super.close()
    }
  }
  const engine: Engine = new Counting({ fd: file.fd, depth: 8 })
  const queue = new IoQueue({ fd: file.fd, depth: 8, engine, onComplete: () => {} })
  assert.equal(queue.engine, 'sync')
  assert.equal(queue.completionFd, engine.completionFd)
  assert.deepEqual(queue.rejected, [])
  queue.close()
  queue.close()
  assert.equal(closed, 1)
})

test('opening and closing leaks no descriptors and no mappings', async () => {
  const count = (): number => readFileSync('/proc/self/maps', 'utf8').split('\n')
    .filter((line) => /io_uring|\[aio\]/.test(line)).length
  const before = count()
  const firstFd = scratchFile('/dev/shm')
  firstFd.remove()
  for (let round = 0; round < 50; round++) {
    for (const name of engineNames) {
      try {
        new IoQueue({ fd: file.fd, depth: 256, engine: openEngine(name, { fd: file.fd, depth: 256 }).engine, onComplete: () => {} }).close()
      } catch (error) {
        if (!(error instanceof LinuxError)) throw error
      }
    }
  }
  const lastFd = scratchFile('/dev/shm')
  lastFd.remove()
  assert.equal(lastFd.fd, firstFd.fd)
  await eventually('those of Linux AIO are unmapped in the background', () => count() === before)
})

test('an engine can be disposed of, a faulty one with the one below', () => {
  const before = readdirSync('/proc/self/fd').length
  const options = { fd: file.fd, depth: 4 }
  const classes = [MappedEngine, IoUringEngine, LinuxAioEngine, SyncEngine].map((make) => () => new make(options))
  for (const make of [...classes, () => ByDepthEngine.open(options)]) {
    try {
      make()[Symbol.dispose]()
      new FaultyEngine(make(), { rules: [] })[Symbol.dispose]()
    } catch (error) {
      if (!(error instanceof LinuxError)) throw error
    }
  }
  assert.equal(readdirSync('/proc/self/fd').length, before)
})

// It left the ring, where the eventfd beside it could not be had.
test('engines that cannot be had for lack of descriptors leave none behind', () => {
  runWithFewDescriptors(new URL('few-descriptors.ts', import.meta.url))
})

test('a queue whose engine cannot be had gives its memory back', () => {
  const addressSpace = (): number => Number(/VmSize:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024
  // 16 MiB of address space each.
  const fail = (): void => assert.throws(() => new IoQueue({ fd: -1, depth: 1024, engine: 'mapped', onComplete: () => {} }), LinuxError)
  fail()
  const before = addressSpace()
  for (let count = 0; count < 20; count++) fail()
  assert.ok(addressSpace() - before < 160 << 20)
})

test.run()
