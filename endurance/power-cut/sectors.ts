// What is written: each sector says which write it is of, all over.
export const SECTOR_BYTES = 512
const WORDS = SECTOR_BYTES / 4
const MAGIC = 0x5ec7012d
/** Words that say what it is: magic number, write, sector. */
const HEADER_WORDS = 3

/** `FOREIGN`: no write's, or of more than one. Other numbers are those of writes. */
export const FOREIGN = -2
/** Nothing but zeroes. */
export const ZEROES = -1

/** What a write puts into its sectors. */
export function content (write: number, sector: number, sectors: number): Uint8Array {
  const words = new Uint32Array(sectors * WORDS)
  for (let index = 0; index < sectors; index++) fill(words.subarray(index * WORDS, (index + 1) * WORDS), write, sector + index)
  return new Uint8Array(words.buffer)
}

/** Whose a sector is: a write's number, `ZEROES` or `FOREIGN`. @param words of the sector as it was found */
export function writeOf (words: Uint32Array, sector: number): number {
  if (words[0] !== MAGIC) return words.every((word) => word === 0) ? ZEROES : FOREIGN
  const write = words[1]!
  fill(expected, write, sector)
  return words.every((word, index) => word === expected[index]) ? write : FOREIGN
}

const expected = new Uint32Array(WORDS)

function fill (words: Uint32Array, write: number, sector: number): void {
  words[0] = MAGIC
  words[1] = write
  words[2] = sector
  for (let index = HEADER_WORDS; index < WORDS; index++) {
    words[index] = Math.imul(index, 0x9e3779b1) ^ Math.imul(write + 1, 0x85ebca6b) ^ Math.imul(sector + 1, 0xc2b2ae35)
  }
}
