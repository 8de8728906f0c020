import { readdirSync, readlinkSync } from 'node:fs'

/** How many epoll instances this process has: one for each of its data-plane threads, and Node's. */
export function eventPolls (): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventpoll]'
    } catch {
      return false
    }
  }).length
}
