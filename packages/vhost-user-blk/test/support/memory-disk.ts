// A disk in memory: for this thread, and as a module for the data-plane thread.
import type { Disk, OpenDisk } from '@node-vmm/virtio-blk-dataplane'

export function memoryDisk (capacity: number): Disk {
  const bytes = new Uint8Array(capacity)
  return {
    capacity,
    async read (offset, segments) {
      for (const segment of segments) {
        segment.set(bytes.subarray(offset, offset + segment.length))
        offset += segment.length
      }
    },
    write (offset, segments) {
      for (const segment of segments) {
        bytes.set(segment, offset)
        offset += segment.length
      }
    },
    flush () {}
  }
}

export const openDisk: OpenDisk<number> = (capacity) => memoryDisk(capacity)
