// npm install @node-vmm/event-poll
// epoll and eventfd: one thread sleeps in one system call, and is woken by another thread and by another process.
import { EventNotifier, EventPoll } from '@node-vmm/event-poll'
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMainThread, Worker, workerData } from 'node:worker_threads'

if (isMainThread) sleeper()
else EventNotifier.fromFd(workerData).notify() // a descriptor is a number, the same in every thread

function sleeper (): void {
  const poll = new EventPoll()
  const bell = EventNotifier.create()
  let awaited = 2

  // An eventfd, cleared before the callback. A virtual machine's processor rings it by way of KVM's ioeventfd.
  poll.add(bell, () => {
    console.log('eventfd: the other thread rang')
    if (--awaited === 0) poll.stop()
  })

  // Any descriptor that can be waited for: a pipe, a socket, a timer, another epoll.
  const folder = mkdtempSync(join(tmpdir(), 'epoll-'))
  const path = join(folder, 'fifo')
  execFileSync('mkfifo', [path])
  const fifo = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  poll.add(fifo, () => {
    const bytes = Buffer.alloc(64)
    console.log('pipe: the other process says', bytes.toString('utf8', 0, readSync(fifo, bytes)).trim())
  }, {
    onHangup: () => {
      console.log('pipe: it has hung up')
      if (--awaited === 0) poll.stop()
    }
  })

  const worker = new Worker(new URL(import.meta.url), { workerData: bell.fd })
  spawn('sh', ['-c', `echo hello > ${path}`])
  poll.run() // Node's own event loop stands still meanwhile
  console.log('stopped')

  worker.once('exit', () => bell.close())
  poll.close()
  closeSync(fifo)
  rmSync(folder, { recursive: true })
}
