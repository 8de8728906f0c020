import type { BlockDriver } from '@node-vmm/virtio-blk-driver'

/** A part of the disk. */
export interface Partition {
  /** Bytes from the disk's beginning. */
  readonly offset: number
  readonly length: number
  /** What the table says it is for: the GPT's name for it or its type's number. */
  readonly type: string
}

const SECTOR = 512
/** Of an entry that stands for a GPT, to keep older programs off. */
const TYPE_PROTECTIVE = 0xee
const GPT_ENTRY_BYTES = 128
/** What every partitioning program makes, and the most that is looked at. */
const GPT_ENTRIES = 128

/** The disk's partitions, by a GPT or the four entries of an MBR; none where there is no table. */
export async function readPartitions (disk: BlockDriver): Promise<Partition[]> {
  const { capacity, blockSize } = disk.config
  if (capacity < 2 * blockSize) return []
  const sector = Buffer.from(await disk.read(0, SECTOR))
  if (sector.readUInt16LE(510) !== 0xaa55) return []
  const entries = [0, 1, 2, 3].map((index) => sector.subarray(446 + 16 * index, 446 + 16 * (index + 1))).map((entry) => ({
    offset: entry.readUInt32LE(8) * SECTOR, length: entry.readUInt32LE(12) * SECTOR, number: entry.readUInt8(4)
  }))
  if (entries.some(({ number }) => number === TYPE_PROTECTIVE)) return await readGpt(disk)
  return within(disk, entries.map(({ offset, length, number }) => ({ offset, length, type: `type 0x${number.toString(16).padStart(2, '0')}` })))
}

/** UEFI 2.10, 5.3: the header is in the second block, and counts in blocks. */
async function readGpt (disk: BlockDriver): Promise<Partition[]> {
  const { blockSize } = disk.config
  const header = Buffer.from(await disk.read(blockSize, SECTOR))
  const start = Number(header.readBigUInt64LE(72)) * blockSize
  const isKnown = header.toString('latin1', 0, 8) === 'EFI PART' && header.readUInt32LE(84) === GPT_ENTRY_BYTES
  if (!isKnown || start + GPT_ENTRIES * GPT_ENTRY_BYTES > disk.config.capacity) return []
  const count = Math.min(header.readUInt32LE(80), GPT_ENTRIES)
  const table = Buffer.from(await disk.read(start, GPT_ENTRIES * GPT_ENTRY_BYTES))
  return within(disk, Array.from({ length: count }, (_, index) => table.subarray(GPT_ENTRY_BYTES * index, GPT_ENTRY_BYTES * (index + 1))).map((entry) => {
    const first = Number(entry.readBigUInt64LE(32))
    const last = Number(entry.readBigUInt64LE(40))
    const name = entry.toString('utf16le', 56).replace(/\0.*$/s, '')
    return { offset: first * blockSize, length: first === 0 ? 0 : (last - first + 1) * blockSize, type: name === '' ? 'without a name' : `"${name}"` }
  }))
}

/** Without the unused entries, and without what a broken table says of places that are not there. */
function within (disk: BlockDriver, partitions: readonly Partition[]): Partition[] {
  return partitions.filter(({ offset, length }) => offset > 0 && length > 0 && offset + length <= disk.config.capacity)
}
