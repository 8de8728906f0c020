import { type FileHandle, open, rm } from 'node:fs/promises'
import type { BlockDriver } from '@node-vmm/virtio-blk-driver'

const CHUNK_BYTES = 1 << 20
const CHUNKS_IN_FLIGHT = 8
const zeroes = Buffer.alloc(CHUNK_BYTES)

/**
 * Copies a disk to a new file, several chunks at a time. What is zero becomes a hole.
 *
 * @returns how many bytes were not zero, in whole chunks
 * @throws Error such as EEXIST: nothing is overwritten. Where it fails half-way, the file is removed.
 */
export async function copyDisk (disk: BlockDriver, path: string): Promise<{ data: number }> {
  const file = await open(path, 'wx')
  try {
    await file.truncate(disk.config.capacity)
    const offsets = chunks(disk.config.capacity)
    const copied = await Promise.all(Array.from({ length: CHUNKS_IN_FLIGHT }, () => copyChunks(disk, file, offsets)))
    await file.datasync()
    return { data: copied.reduce((sum, bytes) => sum + bytes, 0) }
  } catch (error) {
    await rm(path)
    throw error
  } finally {
    await file.close()
  }
}

function * chunks (capacity: number): Generator<number> {
  for (let offset = 0; offset < capacity; offset += CHUNK_BYTES) yield offset
}

/** Takes chunk after chunk from those that are left, as its neighbours do. @returns the bytes that were not zero */
async function copyChunks (disk: BlockDriver, file: FileHandle, offsets: Iterator<number>): Promise<number> {
  const buffer = Buffer.alloc(CHUNK_BYTES)
  let data = 0
  for (let next = offsets.next(); next.done !== true; next = offsets.next()) {
    const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, disk.config.capacity - next.value))
    await disk.read(next.value, chunk)
    if (chunk.equals(zeroes.subarray(0, chunk.length))) continue
    const { bytesWritten } = await file.write(chunk, 0, chunk.length, next.value)
    if (bytesWritten < chunk.length) throw new Error('the file took only a part of what was written: is its disk full?')
    data += chunk.length
  }
  return data
}
