import { errno, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate, LinuxError } from '@node-vmm/libc'
import type { Segments } from '@node-vmm/virtio-blk-dataplane'
import { closeSync, fdatasync, readv, writev } from 'node:fs'
import { promisify } from 'node:util'
import { bytesOf, clear, PIECE_BYTES, slice, zeroes } from './segments.ts'

const readPieces = promisify(readv)
const writePieces = promisify(writev)
const syncData = promisify(fdatasync)

/** What the disks of this package need of a file. */
export interface DiskFile {
  /** Fills the segments; past the end of the file are zeroes. */
  read (position: number, segments: Segments): Promise<void>
  write (position: number, segments: Segments): Promise<void>
  /** Makes what was written durable. */
  sync (): Promise<void>
  /** Zeroes a range, and gives its space back where it can. */
  punch (position: number, length: number): Promise<void>
  /** Zeroes a range, and keeps its space where it can. */
  zero (position: number, length: number): Promise<void>
  close (): void
}

/** An open file, read and written by Node's thread pool: the calling thread goes on meanwhile. It owns the descriptor. */
export class OpenFile implements DiskFile {
  readonly fd: number

  constructor (fd: number) {
    this.fd = fd
  }

  async read (position: number, segments: Segments): Promise<void> {
    const length = bytesOf(segments)
    for (let done = 0; done < length;) {
      const rest = slice(segments, done, length - done)
      const { bytesRead } = await readPieces(this.fd, rest, position + done)
      if (bytesRead === 0) return clear(rest)
      done += bytesRead
    }
  }

  async write (position: number, segments: Segments): Promise<void> {
    const length = bytesOf(segments)
    for (let done = 0; done < length;) {
      const { bytesWritten } = await writePieces(this.fd, slice(segments, done, length - done), position + done)
      done += bytesWritten
    }
  }

  async sync (): Promise<void> {
    await syncData(this.fd)
  }

  punch (position: number, length: number): Promise<void> {
    return this.#allocate(FALLOC_FL_PUNCH_HOLE, position, length)
  }

  zero (position: number, length: number): Promise<void> {
    return this.#allocate(FALLOC_FL_ZERO_RANGE, position, length)
  }

  /** Node has no fallocate(2): this call blocks the thread, for as long as the file system changes its map of the file. */
  async #allocate (mode: number, position: number, length: number): Promise<void> {
    const result = fallocate(this.fd, mode | FALLOC_FL_KEEP_SIZE, position, length)
    if (result === 0) return
    if (result !== -errno.EOPNOTSUPP) throw new LinuxError('fallocate', -result, { subject: `fd ${this.fd}` })
    for (let done = 0; done < length; done += PIECE_BYTES) {
      await this.write(position + done, zeroes(Math.min(PIECE_BYTES, length - done)))
    }
  }

  close (): void {
    closeSync(this.fd)
  }
}
