/**
 * What is at the front of an encrypted disk: 64 KiB, of which the first 160 bytes mean something. Numbers are little-endian.
 *
 * | bytes | |
 * | --- | --- |
 * | 0–15 | `node-vmm encrypt`, in ASCII |
 * | 16–19 | version: 1 |
 * | 20–23 | bytes of an encrypted sector: a power of two, 512 to 4096 |
 * | 24–35 | scrypt's cost (as a power of two), block size and parallelization |
 * | 36–67 | salt |
 * | 68–79 | nonce |
 * | 80–143 | the disk's key, 64 random bytes, encrypted with AES-256-GCM under scrypt(key, salt); bytes 0–79 are authenticated with it |
 * | 144–159 | GCM's tag: with a wrong key it does not fit |
 */
import { createCipheriv, createDecipheriv, randomBytes, scrypt, type ScryptOptions } from 'node:crypto'
import { promisify } from 'node:util'
import { DiskError } from './errors.ts'

const derive = promisify<string | Uint8Array, Uint8Array, number, ScryptOptions, Buffer>(scrypt)

/** Bytes before the data: whole blocks of any disk. */
export const HEADER_BYTES = 65536
const MAGIC = 'node-vmm encrypt'
const VERSION = 1
const BLOCK_SIZE = 8
const PARALLELIZATION = 1
/** scrypt's cost as a power of two: 2^17 takes 128 MiB, and half a second of a processor. */
export const COST_DEFAULT = 17
const COST_MIN = 10
/** 4 GiB: more would be an attack on whoever opens the disk. */
const COST_MAX = 22
const AUTHENTICATED = 80
const KEY_BYTES = 64
const TAG_AT = AUTHENTICATED + KEY_BYTES
const END = TAG_AT + 16

/** Makes a header with a new random key of its own. @param cost scrypt's cost as a power of two, 10 to 22 */
export async function makeHeader (key: string | Uint8Array, sectorSize: number, cost: number): Promise<Uint8Array> {
  if (!Number.isInteger(cost) || cost < COST_MIN || cost > COST_MAX) {
    throw new DiskError('ERR_DISK_OPTION', `scrypt's cost is a power of two from ${COST_MIN} to ${COST_MAX}: not ${cost}`)
  }
  const header = Buffer.alloc(HEADER_BYTES)
  header.write(MAGIC, 'latin1')
  for (const [index, value] of [VERSION, sectorSize, cost, BLOCK_SIZE, PARALLELIZATION].entries()) header.writeUInt32LE(value, 16 + index * 4)
  randomBytes(32 + 12).copy(header, 36)
  const wrapping = await wrappingKey(key, header)
  const diskKey = randomBytes(KEY_BYTES)
  const cipher = createCipheriv('aes-256-gcm', wrapping, header.subarray(68, 80)).setAAD(header.subarray(0, AUTHENTICATED))
  cipher.update(diskKey).copy(header, AUTHENTICATED)
  cipher.final()
  cipher.getAuthTag().copy(header, TAG_AT)
  wrapping.fill(0)
  diskKey.fill(0)
  return header
}

/** What a header says. */
export interface OpenedHeader {
  /** Bytes. */
  readonly sectorSize: number
  /** The disk's key, 64 bytes: to be zeroed by who has it. */
  readonly diskKey: Uint8Array
}

/** @throws DiskError ERR_ENCRYPTED, ERR_ENCRYPTED_KEY */
export async function openHeader (bytes: Uint8Array, key: string | Uint8Array): Promise<OpenedHeader> {
  const header = Buffer.from(bytes.buffer, bytes.byteOffset, END)
  if (header.toString('latin1', 0, MAGIC.length) !== MAGIC) {
    throw new DiskError('ERR_ENCRYPTED', `the disk is not encrypted by this software: it does not begin with '${MAGIC}'. Format it, which destroys what is on it.`)
  }
  const [version, sectorSize, cost, blockSize, parallelization] = [16, 20, 24, 28, 32].map((at) => header.readUInt32LE(at))
  if (version !== VERSION) throw new DiskError('ERR_ENCRYPTED', `the disk is encrypted in version ${version}, and this software knows ${VERSION} only: use the newer one.`)
  // Before the key: a header is not authenticated yet, and could ask for any amount of memory.
  if (!isSectorSize(sectorSize!) || cost! < COST_MIN || cost! > COST_MAX || blockSize !== BLOCK_SIZE || parallelization !== PARALLELIZATION) {
    throw new DiskError('ERR_ENCRYPTED', 'the header of the encrypted disk makes no sense. Restore it from a copy: without it the disk is lost.')
  }
  const wrapping = await wrappingKey(key, header)
  const decipher = createDecipheriv('aes-256-gcm', wrapping, header.subarray(68, 80))
    .setAAD(header.subarray(0, AUTHENTICATED)).setAuthTag(header.subarray(TAG_AT, END))
  const diskKey = decipher.update(header.subarray(AUTHENTICATED, TAG_AT))
  wrapping.fill(0)
  try {
    decipher.final()
  } catch {
    diskKey.fill(0)
    throw new DiskError('ERR_ENCRYPTED_KEY', 'the key does not open the encrypted disk. (Or its header was changed: with the right key, restore that from a copy.)')
  }
  return { sectorSize: sectorSize!, diskKey }
}

/** @internal */
export function isSectorSize (bytes: number): boolean {
  return [512, 1024, 2048, 4096].includes(bytes)
}

function wrappingKey (key: string | Uint8Array, header: Buffer): Promise<Buffer> {
  if (key.length === 0) throw new DiskError('ERR_ENCRYPTED_KEY', 'the key is empty')
  const cost = header.readUInt32LE(24)
  return derive(key, header.subarray(36, 68), 32, {
    N: 2 ** cost, r: BLOCK_SIZE, p: PARALLELIZATION, maxmem: 2 ** cost * BLOCK_SIZE * 128 + (1 << 20)
  })
}
