import { EPOLL_CTL_ADD, epollCreate, epollCtl, EPOLLIN } from './epoll.ts'
import { errno, LinuxError } from './errors.ts'
import { close as closeFd } from './file.ts'
import { koffi } from './library.ts'
import { NativeMemory } from './memory.ts'

/** A descriptor that Node's own event loop watches. */
export interface Watch {
  /** Stops watching. The descriptor stays open: it is the caller's. */
  close (): void
  /** Lets the process end although this watch is open. */
  unref (): void
  /** Keeps the process alive while this watch is open: the state at first. */
  ref (): void
  /** The same as `close()`, for `using`. */
  [Symbol.dispose] (): void
}

// How to close each open watch. koffi's handle dies with its garbage-collected object, silently: it is held here, too.
const open = new Map<number, () => void>()
let closesAtExit = false
/** What a trial asks the kernel for: the same for all of this thread. */
let trial: NativeMemory | undefined

// A descriptor that is readable while the process ends would call back where there is no JavaScript any more: an abort.
function closeAtExit (): void {
  if (closesAtExit) return
  closesAtExit = true
  process.once('exit', () => { for (const close of open.values()) close() })
}

// koffi ends the process where libuv refuses a descriptor: a trial finds out first, with an error.
function checkWatchable (fd: number): void {
  if (open.has(fd)) throw new LinuxError('epoll_ctl', errno.EEXIST, { subject: `fd ${fd}`, remedy: 'It is being watched already.' })
  trial ??= readableEvent()
  const epoll = epollCreate()
  try {
    epollCtl(epoll, EPOLL_CTL_ADD, fd, trial.address)
  } finally {
    closeFd(epoll)
  }
}

function readableEvent (): NativeMemory {
  const event = new NativeMemory(16)
  event.u32[0] = EPOLLIN
  return event
}

/**
 * Calls back whenever a descriptor is readable or its peer hung up, from Node's event loop (libuv's `uv_poll`), as
 * often as it stays so. For sockets and eventfds, not for regular files. One watch a descriptor at a time.
 *
 * @throws LinuxError such as EEXIST for a descriptor that is watched already, EPERM for a regular file, EBADF
 */
export function watchReadable (fd: number, callback: () => void): Watch {
  return watch(fd, { readable: true, disconnect: true }, callback)
}

/** The same for a descriptor that has room to write again, or whose peer hung up. @throws as {@link watchReadable} */
export function watchWritable (fd: number, callback: () => void): Watch {
  return watch(fd, { writable: true, disconnect: true }, callback)
}

function watch (fd: number, events: { readable?: boolean, writable?: boolean, disconnect: boolean }, callback: () => void): Watch {
  checkWatchable(fd)
  let closed = false
  const handle = koffi().node.poll(fd, events, () => {
    // On Node 26 promises made in the poll callback would wait for some other event: an immediate has them run.
    if (!closed) setImmediate(() => { if (!closed) callback() })
  })
  const close = (): void => {
    if (closed) return
    closed = true
    open.delete(fd)
    handle.close()
  }
  open.set(fd, close)
  closeAtExit()
  return { close, unref: () => handle.unref(), ref: () => handle.ref(), [Symbol.dispose]: close }
}
