import { koffi } from './library.ts'

/** A descriptor that Node's own event loop watches. */
export interface Watch {
  /** Stops watching. The descriptor stays open: it is the caller's. */
  close (): void
  /** Lets the process end although this watch is open. */
  unref (): void
  /** Keeps the process alive while this watch is open: the state at first. */
  ref (): void
  [Symbol.dispose] (): void
}

// koffi's handle dies with its garbage-collected object, silently: every open one is held here.
const open = new Set<object>()

/**
 * Calls back whenever a descriptor is readable or its peer hung up, from Node's event loop (libuv's `uv_poll`), as
 * often as it stays so. For sockets and eventfds, not for regular files. One watch a descriptor at a time.
 */
export function watchReadable (fd: number, callback: () => void): Watch {
  return watch(fd, { readable: true, disconnect: true }, callback)
}

/** The same for a descriptor that has room to write again, or whose peer hung up. */
export function watchWritable (fd: number, callback: () => void): Watch {
  return watch(fd, { writable: true, disconnect: true }, callback)
}

function watch (fd: number, events: { readable?: boolean, writable?: boolean, disconnect: boolean }, callback: () => void): Watch {
  let closed = false
  const handle = koffi().node.poll(fd, events, () => {
    // On Node 26 promises made in the poll callback would wait for some other event: an immediate has them run.
    if (!closed) setImmediate(() => { if (!closed) callback() })
  })
  open.add(handle)
  const close = (): void => {
    if (closed) return
    closed = true
    open.delete(handle)
    handle.close()
  }
  return { close, unref: () => handle.unref(), ref: () => handle.ref(), [Symbol.dispose]: close }
}
