import type { BlockDriver } from '@node-vmm/virtio-blk-driver'

const CHUNK_BYTES = 1 << 20

/** Writes a pattern that tells every sector apart, flushes, reads all back and compares. @returns the bytes compared */
export async function verify (driver: BlockDriver, bytes: number, onProgress: (done: number) => void): Promise<number> {
  for (let offset = 0; offset < bytes; offset += CHUNK_BYTES) {
    await driver.write(offset, pattern(offset))
    onProgress(offset / (2 * bytes))
  }
  await driver.flush()
  for (let offset = 0; offset < bytes; offset += CHUNK_BYTES) {
    const read = await driver.read(offset, CHUNK_BYTES)
    if (!Buffer.from(read.buffer, read.byteOffset, read.length).equals(pattern(offset))) throw new Error(`the MiB at ${offset} is not what was written`)
    onProgress(0.5 + offset / (2 * bytes))
  }
  return bytes
}

function pattern (offset: number): Buffer {
  const words = new Float64Array(CHUNK_BYTES / 8)
  for (let index = 0; index < words.length; index++) words[index] = offset + index * 8
  return Buffer.from(words.buffer)
}
