// A disk module: a disk of one byte, or one that counts what is read from the disk below.
import { appendFileSync } from 'node:fs'

export const openDisk = ({ byte = '0', size = '1048576', log, disk }) => ({
  capacity: disk?.capacity ?? Number(size),
  read (offset, segments, signal) {
    if (log !== undefined) appendFileSync(log, `read ${offset}\n`)
    if (disk !== undefined) return disk.read(offset, segments, signal)
    for (const segment of segments) segment.fill(Number(byte))
  },
  ...(log !== undefined && { close: () => appendFileSync(log, 'closed\n') })
})
