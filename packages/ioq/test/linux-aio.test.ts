import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import { close, errno, NativeMemory, O_DIRECT, O_RDWR, open, read } from '@node-vmm/libc'
import { IoQueue, LinuxAioEngine } from '@node-vmm/ioq'
import { Harness, scratchFile } from './support.ts'

const test = suite('LinuxAioEngine')

for (const sharedRing of [true, false]) {
  test(`reaps ${sharedRing ? 'without system calls' : 'with io_getevents'}`, () => {
    const file = scratchFile(tmpdir())
    const memory = new NativeMemory(4096)
    const results: number[] = []
    const engine = new LinuxAioEngine({ fd: file.fd, depth: 16, sharedRing })
    const queue = new IoQueue({ fd: file.fd, depth: 16, engine, onComplete: (_, result) => { results.push(result) } })
    for (let round = 1; round <= 100; round++) {
      for (let id = 0; id < 16; id++) queue.writev(id, [{ address: memory.address, length: 512 }], id * 512)
      queue.submitAndReap()
      while (queue.inFlight > 0) queue.reap()
      if (sharedRing) assert.equal(queue.systemCalls, round)
      else assert.ok(queue.systemCalls >= round * 17)
    }
    assert.equal(results.length, 1600)
    assert.ok(results.every((result) => result === 512))
    queue.close()
    memory.close()
    file.remove()
  })
}

test('the end of buffered transfers is announced once a batch, and only to those who do not reap at once', () => {
  const file = scratchFile('/dev/shm')
  const memory = new NativeMemory(4096)
  const engine = new LinuxAioEngine({ fd: file.fd, depth: 8 })
  const queue = new IoQueue({ fd: file.fd, depth: 8, engine, onComplete: () => {} })
  const isAnnounced = (): boolean => read(queue.completionFd, memory.address, 8) === 8
  const write = (): void => {
    for (let id = 0; id < 8; id++) queue.writev(id, [{ address: memory.address, length: 512 }], id * 512)
  }
  write()
  assert.equal(queue.submitAndReap(), 8)
  assert.equal(isAnnounced(), false)
  assert.equal(engine.unannounced, false)

  write()
  queue.submit()
  assert.equal(isAnnounced(), true)
  assert.equal(queue.reap(), 8)
  assert.equal(isAnnounced(), false)

  queue.flush(0)
  queue.submitAndReap()
  while (queue.inFlight > 0) queue.reap()
  assert.equal(isAnnounced(), true)
  queue.close()
  memory.close()
  file.remove()
})

test('where the kernel takes its time with what it does at once elsewhere, it is asked to announce from then on', () => {
  const file = scratchFile(tmpdir())
  const memory = new NativeMemory(4096)
  const engine = new LinuxAioEngine({ fd: file.fd, depth: 8 })
  const queue = new IoQueue({ fd: file.fd, depth: 8, engine, onComplete: () => {} })
  const isAnnounced = (): boolean => read(queue.completionFd, memory.address, 8) === 8
  // The engine has seen a descriptor without O_DIRECT: now the same number has one.
  close(file.fd)
  assert.equal(open(file.path, O_RDWR | O_DIRECT), file.fd)

  let unannounced = 0
  for (let round = 0; round < 100; round++) {
    for (let id = 0; id < 8; id++) queue.writev(id, [{ address: memory.address, length: 4096 }], id * 4096)
    queue.submitAndReap()
    if (engine.unannounced) unannounced++
    // Whoever sleeps until it is announced is woken until all is complete.
    while (queue.inFlight > 0) if (isAnnounced()) queue.reap()
  }
  assert.equal(queue.completions, 800)
  assert.ok(unannounced <= 1, `${unannounced} rounds`)
  queue.close()
  memory.close()
  file.remove()
})

test('a callback may reap and submit, with io_getevents too', () => {
  const file = scratchFile('/dev/shm')
  const memory = new NativeMemory(4096)
  let left = 100
  const engine = new LinuxAioEngine({ fd: file.fd, depth: 8, sharedRing: false })
  const queue: IoQueue = new IoQueue({
    fd: file.fd,
    depth: 8,
    engine,
    onComplete: (id, result) => {
      assert.equal(result, 512)
      queue.reap()
      if (left-- <= 0) return
      queue.writev(id, [{ address: memory.address, length: 512 }], 0)
      queue.submit()
    }
  })
  for (let id = 0; id < 8; id++) queue.writev(id, [{ address: memory.address, length: 512 }], 0)
  queue.submit()
  while (queue.inFlight > 0) queue.reap()
  assert.equal(queue.completions, 108)
  queue.close()
  memory.close()
  file.remove()
})

test('where FDSYNC is refused, a flush is a blocking fdatasync among the others', () => {
  // A device without fsync: the kernel refuses both, so the result is that of fdatasync, and the batch goes on.
  const fd = open('/dev/zero', O_RDWR)
  const harness = new Harness('linux-aio', fd)
  const { queue, memory } = harness
  for (let round = 0; round < 2; round++) {
    for (let id = 0; id < 9; id++) {
      if (id % 3 === 1) queue.flush(id)
      else queue.readv(id, [{ address: memory.address, length: 512 }], 0)
    }
    harness.finish()
    for (let id = 0; id < 9; id++) assert.equal(harness.results.get(id), id % 3 === 1 ? -errno.EINVAL : 512, `request ${id}`)
    harness.results.clear()
  }
  harness.close()
  close(fd)
})

test.run()
