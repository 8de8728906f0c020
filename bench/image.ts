import { closeSync, ftruncateSync, openSync, writeSync, fsyncSync } from 'node:fs'

const BLOCK_BYTES = 4096
const CHUNK_BYTES = 4 << 20

/** The first word of each 4 KiB of an image: what is read can be told from what is not. */
export function blockMark (block: number): number {
  return (block ^ 0x5aa5c33c) >>> 0
}

/** Makes an image, every block of it written: no holes, which would be read without I/O. */
export function makeImage (path: string, bytes: number): void {
  const fd = openSync(path, 'w')
  try {
    ftruncateSync(fd, bytes)
    const chunk = Buffer.alloc(CHUNK_BYTES, 'node-vmm')
    for (let offset = 0; offset < bytes; offset += CHUNK_BYTES) {
      for (let at = 0; at < CHUNK_BYTES; at += BLOCK_BYTES) chunk.writeUInt32LE(blockMark((offset + at) / BLOCK_BYTES), at)
      writeSync(fd, chunk, 0, Math.min(CHUNK_BYTES, bytes - offset), offset)
    }
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
