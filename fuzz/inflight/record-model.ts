// The record of what a split ring has in flight, read and written as the specification has it (vhost-user, "Inflight I/O
// tracking", struct QueueRegionSplit): a header of 16 bytes and 16 bytes for each descriptor.

export const HEADER = { version: 8, size: 10, batchHead: 12, used: 14 } as const

export function entryOf (head: number): number {
  return 16 + 16 * head
}

export function isInFlight (record: Buffer, head: number): boolean {
  return record[entryOf(head)] === 1
}

export function nextOf (record: Buffer, head: number): number {
  return record.readUInt16LE(entryOf(head) + 6)
}

export function counterOf (record: Buffer, head: number): bigint {
  return record.readBigUInt64LE(entryOf(head) + 8)
}

/**
 * What a device finds that comes after one that ended at any moment.
 *
 * @returns the heads to be done again, the oldest first; undefined where the record says nothing of this ring
 */
export function recoveredFrom (found: Buffer, size: number, usedIndex: number): number[] | undefined {
  const record = Buffer.from(found)
  if (record.readUInt16LE(HEADER.version) !== 1 || record.readUInt16LE(HEADER.size) !== size) return undefined
  const shown = (usedIndex - record.readUInt16LE(HEADER.used)) & 0xffff
  let head = record.readUInt16LE(HEADER.batchHead)
  for (let count = 0; count < Math.min(shown, size) && head < size; count++) {
    record[entryOf(head)] = 0
    head = nextOf(record, head)
  }
  const heads = Array.from({ length: size }, (_, each) => each).filter((each) => isInFlight(record, each))
  return heads.sort((one, other) => {
    const difference = counterOf(record, one) - counterOf(record, other)
    return difference === 0n ? one - other : difference < 0n ? -1 : 1
  })
}
