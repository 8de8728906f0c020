import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { suite } from 'uvu'
import { fileURLToPath } from 'node:url'
import {
  close, EPOLL_CTL_ADD, epollCreate, epollCtl, EPOLLIN, epollWait, errno, ftruncate, NativeMemory, platform, read
} from '@node-vmm/libc'
import { openEngine } from '@node-vmm/ioq'
import { eventually } from '../../../test/support/eventually.ts'
import { Harness, scratchFile } from './support.ts'

const test = suite('BlockingThread')
const descriptors = (): number => readdirSync('/proc/self/fd').length

/** A queue for one call. */
function discardOnce (fd: number): void {
  const harness = new Harness('mapped', fd)
  assert.equal(harness.discard(0, 4096), 0)
  harness.close()
}

/** A number once it does not change for a while. */
async function settled (of: () => number): Promise<number> {
  for (let last = of(); ; last = of()) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    if (of() === last) return last
  }
}

try {
  openEngine('linux-aio', { fd: 0, depth: 1 }).engine.close()
} catch (error) {
  console.log(`skipped: ${(error as Error).message}`)
  process.exit(0)
}

test('starts with the first call that needs it, answers while this thread never rests, and lets go of the queue', async () => {
  const file = scratchFile('/dev/shm')
  ftruncate(file.fd, 1 << 20)
  // A thread that was started stays.
  discardOnce(file.fd)
  const before = await settled(descriptors)
  const harness = new Harness('linux-aio', file.fd, { depth: 3 })
  assert.equal(harness.transfer('writev', [[0, 4096]], 0), 4096)
  const idle = descriptors()
  // More often than the rings have slots; nothing here goes back to the event loop.
  for (let round = 0; round < 1000; round++) {
    for (let id = 0; id < 3; id++) {
      harness.queue.offset[id] = id * 8192
      harness.queue.length[id] = 8192
      if (round % 2 === 0) harness.queue.discard(id)
      else harness.queue.writeZeroes(id, true)
    }
    harness.finish()
    assert.deepEqual([...harness.results.values()], [0, 0, 0])
    harness.results.clear()
  }
  assert.ok(descriptors() > idle, 'it is there')
  assert.equal(harness.queue.completions, 3001)
  harness.close()
  await eventually('what was the queue\'s is closed', () => descriptors() <= before)
  file.remove()
})

test('bug: each queue left a thread\'s stack behind where the event loop does not turn, as on a data-plane thread', () => {
  const file = scratchFile('/dev/shm')
  ftruncate(file.fd, 1 << 20)
  const mappings = (): number => readFileSync('/proc/self/maps', 'latin1').split('\n').length
  for (let round = 0; round < 3; round++) discardOnce(file.fd)
  const before = mappings()
  for (let round = 0; round < 30; round++) discardOnce(file.fd)
  // Each thread has about 20.
  assert.ok(mappings() < before + 100, `${mappings()} mappings, ${before} before`)
  file.remove()
})

test('queues at the same time have a thread each', () => {
  const file = scratchFile('/dev/shm')
  ftruncate(file.fd, 1 << 20)
  const harnesses = [0, 1, 2].map(() => new Harness('linux-aio', file.fd))
  for (let round = 0; round < 20; round++) for (const harness of harnesses) assert.equal(harness.discard(0, 4096), 0)
  for (const harness of harnesses) harness.close()
  file.remove()
})

test('a completion is told by the queue\'s descriptor, each time', () => {
  const file = scratchFile('/dev/shm')
  ftruncate(file.fd, 1 << 20)
  const harness = new Harness('linux-aio', file.fd)
  const { queue } = harness
  const { epollEventBytes } = platform()
  const scratch = new NativeMemory(epollEventBytes + 8)
  const epoll = epollCreate()
  scratch.u32[0] = EPOLLIN
  epollCtl(epoll, EPOLL_CTL_ADD, queue.completionFd, scratch.address)
  for (let round = 0; round < 50; round++) {
    queue.offset[0] = 0
    queue.length[0] = 4096
    queue.discard(0)
    queue.submit()
    let ready = 0
    // A signal, or kernel work on behalf of the thread, may interrupt the wait.
    while ((ready = epollWait(epoll, scratch.address, 1, 60_000)) === -errno.EINTR);
    assert.equal(ready, 1)
    read(queue.completionFd, scratch.address + epollEventBytes, 8)
    queue.reap()
    assert.equal(queue.inFlight, 0, `round ${round}`)
  }
  close(epoll)
  scratch.close()
  harness.close()
  file.remove()
})

for (const end of ['', 'process.exit(7)']) {
  test(`does not hold up the end of the process${end === '' ? '' : ' by process.exit()'}`, () => {
    const program = `
      import { LinuxAioEngine, IoQueue } from '@node-vmm/ioq'
      import { ftruncate, memfdCreate } from '@node-vmm/libc'
      const fd = memfdCreate('disk')
      ftruncate(fd, 1 << 20)
      const queue = new IoQueue({ fd, depth: 4, engine: 'linux-aio', onComplete: (id, result) => console.log(id, result) })
      queue.length[2] = 4096
      queue.discard(2)
      queue.submit()
      while (queue.inFlight > 0) queue.reap()
      console.log(performance.timeOrigin + performance.now())
      ${end}`
    const child = spawnSync(process.execPath, ['--import', fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url)),
      '--conditions=@node-vmm/source', '--input-type=module', '-e', program],
    { cwd: fileURLToPath(new URL('..', import.meta.url)), encoding: 'utf8', timeout: 100_000 })
    const ended = performance.timeOrigin + performance.now()
    assert.equal(child.status, end === '' ? 0 : 7, child.stderr)
    const [completion, done] = child.stdout.trim().split('\n')
    assert.equal(completion, '2 0')
    assert.ok(ended - Number(done) < 30_000, `it took ${ended - Number(done)} ms`)
  })
}

test.run()
