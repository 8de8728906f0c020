import { closeSync, writeSync } from 'node:fs'

/** Closes descriptors that came from a peer. One that cannot be closed is gone already. */
export function closeAll (fds: (number | undefined)[]): void {
  for (const fd of fds.splice(0)) {
    if (fd === undefined) continue
    try {
      closeSync(fd)
    } catch {
      // Nothing is left to do with it.
    }
  }
}

const one = new Uint8Array(8)
one[0] = 1

/**
 * Signals a call or error descriptor: 8 bytes, which an eventfd adds and a pipe or socket carries. One that is full
 * was signalled already, and one whose reader is gone needs no signal.
 */
export function signal (fd: number | undefined): void {
  if (fd === undefined) return
  try {
    writeSync(fd, one)
  } catch {
    // See above: there is nobody to tell.
  }
}
