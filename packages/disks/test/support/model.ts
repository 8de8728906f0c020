import { deepEqual, ok } from 'node:assert/strict'
import type { Disk, Segments } from '@node-vmm/virtio-blk-dataplane'
import { randomNumbers } from '../../src/random.ts'

export const signal = new AbortController().signal

/** What the disk has there. */
export async function read (disk: Disk, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length, 0xee)
  await disk.read(offset, [bytes], signal)
  return bytes
}

export async function write (disk: Disk, offset: number, bytes: Uint8Array): Promise<void> {
  await disk.write!(offset, [bytes], signal)
}

/** Bytes that say where they are from. */
export function pattern (length: number, seed: number): Buffer {
  const random = randomNumbers(seed)
  return Buffer.from(Array.from({ length }, () => Math.floor(random() * 256)))
}

/** Cuts bytes into segments of odd lengths. */
export function cut (bytes: Uint8Array, random: () => number): Segments {
  const segments: Uint8Array[] = []
  for (let at = 0; at < bytes.length;) {
    const length = 1 + Math.floor(random() * bytes.length)
    segments.push(bytes.subarray(at, at + length))
    at += length
  }
  return segments
}

/** What a discard may leave: zeroes, or what was there. */
export type AfterDiscard = 'zero' | 'unknown'

/**
 * Random requests, several at once where they do not overlap, against a plain array.
 *
 * @param model what the disk has at first; changed along with it
 */
export async function checkAgainstModel (disk: Disk, model: Buffer, seed: number, rounds: number, afterDiscard: AfterDiscard = 'zero'): Promise<void> {
  const random = randomNumbers(seed)
  const blockSize = disk.blockSize ?? 512
  const slots = 4
  for (let round = 0; round < rounds; round++) {
    await Promise.all(Array.from({ length: slots }, (_, slot) => {
      // A quarter of the disk each, so that they share clusters at its borders, and no byte.
      const blocks = model.length / blockSize
      const from = Math.floor(blocks * slot / slots)
      const to = Math.floor(blocks * (slot + 1) / slots)
      const first = from + Math.floor(random() * (to - from))
      const count = 1 + Math.floor(random() ** 3 * (to - first))
      return oneRequest(disk, model, random, first * blockSize, count * blockSize, afterDiscard, `seed ${seed}, round ${round}`)
    }))
    if (disk.flush !== undefined && random() < 0.1) await disk.flush(signal)
  }
  deepEqual(await read(disk, 0, model.length), model, `seed ${seed}: at the end`)
}

async function oneRequest (disk: Disk, model: Buffer, random: () => number, offset: number, length: number, afterDiscard: AfterDiscard, title: string): Promise<void> {
  const what = random()
  if (what < 0.4) {
    const bytes = Buffer.alloc(length, 0xee)
    await disk.read(offset, cut(bytes, random), signal)
    deepEqual(bytes, model.subarray(offset, offset + length), `${title}: ${length} bytes at ${offset}`)
  } else if (what < 0.8) {
    const bytes = pattern(length, Math.floor(random() * 2 ** 32))
    bytes.copy(model, offset)
    await disk.write!(offset, cut(bytes, random), signal)
  } else if (what < 0.9 && disk.writeZeroes !== undefined) {
    model.fill(0, offset, offset + length)
    await disk.writeZeroes(offset, length, random() < 0.5, signal)
  } else if (disk.discard !== undefined) {
    await disk.discard(offset, length, signal)
    const zeroed = Buffer.from(model.subarray(offset, offset + length)).fill(0)
    if (afterDiscard === 'unknown') await keepWhatStayed(disk, model.subarray(offset, offset + length), zeroed, offset, title)
    zeroed.copy(model, offset)
  }
}

async function keepWhatStayed (disk: Disk, before: Buffer, zeroed: Buffer, offset: number, title: string): Promise<void> {
  const after = await read(disk, offset, before.length)
  for (let at = 0; at < before.length; at += 512) {
    const block = after.subarray(at, at + 512)
    const stayed = block.equals(before.subarray(at, at + 512))
    ok(stayed || block.every((byte) => byte === 0), `${title}: after a discard, byte ${offset + at} has neither what was there nor zeroes`)
    block.copy(zeroed, at)
  }
}
