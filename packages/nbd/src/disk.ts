import { NbdClient, type NbdOptions } from './client.ts'
import { NBD_FLAG_SEND_FLUSH, NBD_FLAG_SEND_TRIM, NBD_FLAG_SEND_WRITE_ZEROES } from './protocol.ts'
import type { Segments } from './request.ts'

/** Sectors of a disk, in bytes, where the server allows smaller blocks. */
const SECTOR_BYTES = 512

/**
 * An export as the disk of a virtual machine: a `Disk` of `@node-vmm/virtio-blk-dataplane`. What the server does not
 * offer is not there.
 */
export interface NbdDisk {
  /** Bytes: the export's size, less what does not fill a block at its end. */
  readonly capacity: number
  /** The server's minimum block size, in bytes; at least 512. */
  readonly blockSize: number
  /** Whether the export is. */
  readonly readOnly: boolean
  /** Reads from `offset` on: see `Disk` of `@node-vmm/virtio-blk-dataplane`. */
  read (offset: number, segments: Segments, signal: AbortSignal): Promise<void>
  /** Writes from `offset` on: see `Disk` of `@node-vmm/virtio-blk-dataplane`. */
  write (offset: number, segments: Segments, signal: AbortSignal): Promise<void>
  /** Makes stable what was written: see `Disk` of `@node-vmm/virtio-blk-dataplane`. @default the server has no cache */
  flush? (signal: AbortSignal): Promise<void>
  /** See `Disk` of `@node-vmm/virtio-blk-dataplane`. @default the server knows no TRIM */
  discard? (offset: number, length: number, signal: AbortSignal): Promise<void>
  /** See `Disk` of `@node-vmm/virtio-blk-dataplane`. @default the server knows no WRITE_ZEROES */
  writeZeroes? (offset: number, length: number, unmap: boolean, signal: AbortSignal): Promise<void>
  /** Ends the connections: see {@link NbdClient.close}. */
  close (): Promise<void>
  /** The same as `close()`, for `await using`. */
  [Symbol.asyncDispose] (): Promise<void>
}

/**
 * Connects to an export and makes a disk of it.
 *
 * @param options they can be cloned between threads, all but `signal`
 * @throws as {@link NbdClient.connect}
 */
export async function nbd (options: string | NbdOptions): Promise<NbdDisk> {
  const client = await NbdClient.connect(options)
  const blockSize = Math.max(SECTOR_BYTES, client.info.blockSize.minimum)
  const has = (flag: number): boolean => (client.flags & flag) !== 0 && !client.readOnly
  return {
    capacity: client.size - client.size % blockSize,
    blockSize,
    readOnly: client.readOnly,
    read: async (offset, segments, signal) => await client.readInto(offset, segments, { signal }),
    write: async (offset, segments, signal) => await client.write(offset, segments, { signal }),
    ...(has(NBD_FLAG_SEND_FLUSH) && { flush: async (signal: AbortSignal) => await client.flush({ signal }) }),
    ...(has(NBD_FLAG_SEND_TRIM) && {
      discard: async (offset: number, length: number, signal: AbortSignal) => await client.trim(offset, length, { signal })
    }),
    ...(has(NBD_FLAG_SEND_WRITE_ZEROES) && {
      writeZeroes: async (offset: number, length: number, unmap: boolean, signal: AbortSignal) => {
        await client.writeZeroes(offset, length, { noHole: !unmap, signal })
      }
    }),
    close: async () => await client.close(),
    [Symbol.asyncDispose]: async () => await client.close()
  }
}

/** What a data plane looks for in the module of a disk: `DataPlane.open({ disk: { module: '@node-vmm/nbd', options } })`. */
export const openDisk = nbd
