// A disk module that opens what it is told to.
import type { Disk, DiskModule, OpenDisk } from '../../src/index.ts'

export type Oddity = 'never opens' | 'rejects' | 'throws' | 'nothing' | 'no capacity' | 'never settles' | 'blocks' | 'dies later' | 'keeps a timer' | 'heeds the signal' | 'close fails'

const CAPACITY = 1 << 20

export const openDisk: OpenDisk<Oddity> = (oddity) => {
  const disk: Disk = { capacity: CAPACITY, read: () => {}, write: () => {}, flush: () => {} }
  switch (oddity) {
    case 'never opens': return new Promise(() => {})
    case 'rejects': return Promise.reject(new Error('the key is wrong'))
    case 'throws': throw Object.assign(new Error('no such export'), { code: 'ENOENT' })
    case 'nothing': return undefined as unknown as Disk
    case 'no capacity': return { ...disk, capacity: 1000 }
    case 'never settles': return { ...disk, read: () => new Promise(() => {}) }
    case 'blocks': return { ...disk, read: () => { for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000) } }
    case 'dies later': return { ...disk, read: () => new Promise(() => { setTimeout(() => { throw new Error('a timer went wrong') }, 1) }) }
    case 'keeps a timer':
      setInterval(() => {}, 1 << 30)
      return disk
    case 'heeds the signal': return {
      ...disk,
      read: (_offset, _segments, signal) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    }
    case 'close fails': return { ...disk, close: () => { throw new Error('the last flush failed') } }
  }
}

export function oddModule (oddity: Oddity): DiskModule<Oddity> {
  return { module: new URL(import.meta.url), options: oddity }
}
