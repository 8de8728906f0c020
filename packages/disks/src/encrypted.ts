import type { Disk, Segments } from '@node-vmm/virtio-blk-dataplane'
import { createCipheriv, createDecipheriv } from 'node:crypto'
import { NEVER } from './concurrency.ts'
import { COST_DEFAULT, HEADER_BYTES, isSectorSize, makeHeader, openHeader } from './encrypted-header.ts'
import { DiskError } from './errors.ts'
import type { OpenedDisk } from './opened-disk.ts'
import { bytesOf, gather, scatter } from './segments.ts'

/** A disk to be encrypted for the first time. */
export interface FormatEncryptedOptions {
  /** Left open. What is on it is lost. */
  readonly disk: Disk
  /** What opens it: a passphrase, or the bytes of a key file. It is stretched with scrypt either way. */
  readonly key: string | Uint8Array
  /**
   * Bytes that are encrypted at once, and a block of the resulting disk: 512 to 4096, a block of the disk below at least.
   * The smaller, the slower. @default 4096
   */
  readonly sectorSize?: number
  /** scrypt's cost as a power of two, 10 to 22: 17 takes 128 MiB. @default 17 */
  readonly cost?: number
  /** Gives it up, with the signal's reason: what is on the disk then may be the header, or not. @default never */
  readonly signal?: AbortSignal
}

/** An encrypted disk. */
export interface EncryptedOptions {
  /** What has the encrypted bytes; owned by the encrypted disk from then on. */
  readonly disk: Disk
  /** A passphrase, or the bytes of a key file. */
  readonly key: string | Uint8Array
  /** Format the disk where its first 64 KiB are zeroes. @default false */
  readonly format?: boolean
  /** Pass discards on: that saves space, and shows which sectors are in use. @default false */
  readonly discards?: boolean
  /** Gives the attempt to open it up, with the signal's reason. @default never */
  readonly signal?: AbortSignal
}

/**
 * Writes the header of an encrypted disk with a new random key of its own.
 *
 * @throws DiskError ERR_DISK_OPTION, ERR_ENCRYPTED_KEY for an empty key; what the disk throws; the signal's reason
 */
export async function formatEncrypted ({ disk, key, sectorSize = 4096, cost = COST_DEFAULT, signal = NEVER }: FormatEncryptedOptions): Promise<void> {
  signal.throwIfAborted()
  const { blockSize = 512, capacity } = disk
  if (!isSectorSize(sectorSize) || sectorSize < blockSize) {
    throw new DiskError('ERR_DISK_OPTION', `an encrypted sector has 512, 1024, 2048 or 4096 bytes, and a block of the disk below (${blockSize}) at least: not ${sectorSize}`)
  }
  if (capacity < HEADER_BYTES + sectorSize) throw new DiskError('ERR_DISK_OPTION', `an encrypted disk needs ${HEADER_BYTES + sectorSize} bytes at least: this one has ${capacity}`)
  if (disk.write === undefined || disk.readOnly === true) throw new DiskError('ERR_DISK_OPTION', 'a disk that cannot be written cannot be formatted')
  const header = await makeHeader(key, sectorSize, cost)
  signal.throwIfAborted()
  await disk.write(0, [header], signal)
  await disk.flush?.(signal)
}

/**
 * A disk that is encrypted with AES-256-XTS (IEEE 1619), each sector by its number. Its first 64 KiB hold the header:
 * the disk is that much smaller than the one below.
 *
 * XTS hides what is written, not that it was: who sees the disk twice sees which sectors changed, and who can write it can
 * put old sectors back, or turn them into noise, unnoticed.
 *
 * @throws DiskError ERR_ENCRYPTED, ERR_ENCRYPTED_KEY; as `formatEncrypted`. The disk below is the caller's again then, open
 */
export async function encrypted ({ disk, key, format = false, discards = false, signal = NEVER }: EncryptedOptions): Promise<OpenedDisk> {
  signal.throwIfAborted()
  if (disk.capacity <= HEADER_BYTES) throw new DiskError('ERR_ENCRYPTED', `an encrypted disk has more than ${HEADER_BYTES} bytes: this one has ${disk.capacity}`)
  const bytes = Buffer.alloc(HEADER_BYTES)
  await disk.read(0, [bytes], signal)
  if (format && bytes.every((byte) => byte === 0)) {
    await formatEncrypted({ disk, key, signal })
    await disk.read(0, [bytes], signal)
  }
  const { diskKey, sectorSize } = await openHeader(bytes, key)
  if (signal.aborted) {
    diskKey.fill(0)
    throw signal.reason
  }
  return new EncryptedDisk(disk, new SectorCipher(diskKey, sectorSize), sectorSize, discards)
}

/** AES-256-XTS over whole sectors. @internal */
export class SectorCipher {
  readonly #sectorSize: number
  #key: Uint8Array | undefined

  /** @param key 64 bytes: the data's half, then the tweak's; zeroed at close */
  constructor (key: Uint8Array, sectorSize: number) {
    this.#key = key
    this.#sectorSize = sectorSize
  }

  /** Encrypts in place. @param sector number of the first */
  encrypt (sector: number, bytes: Uint8Array): void {
    this.#crypt(createCipheriv, sector, bytes)
  }

  /** Decrypts in place. @param sector number of the first */
  decrypt (sector: number, bytes: Uint8Array): void {
    this.#crypt(createDecipheriv, sector, bytes)
  }

  #crypt (create: typeof createCipheriv | typeof createDecipheriv, sector: number, bytes: Uint8Array): void {
    if (this.#key === undefined) throw new DiskError('ERR_ENCRYPTED_KEY', 'the encrypted disk is closed: its key is gone')
    const tweak = Buffer.alloc(16)
    for (let start = 0; start < bytes.length; start += this.#sectorSize) {
      tweak.writeBigUInt64LE(BigInt(sector++))
      const piece = bytes.subarray(start, start + this.#sectorSize)
      piece.set(create('aes-256-xts', this.#key, tweak).update(piece))
    }
  }

  /** Forgets the key, as far as a runtime can that may have copied it. */
  close (): void {
    this.#key?.fill(0)
    this.#key = undefined
  }
}

class EncryptedDisk implements OpenedDisk {
  readonly blockSize: number
  readonly readOnly: boolean
  readonly flush?: (signal: AbortSignal) => void | Promise<void>
  readonly discard?: (offset: number, length: number, signal: AbortSignal) => void | Promise<void>
  readonly #disk: Disk
  readonly #cipher: SectorCipher

  constructor (disk: Disk, cipher: SectorCipher, sectorSize: number, discards: boolean) {
    this.blockSize = sectorSize
    this.readOnly = disk.readOnly === true || disk.write === undefined
    this.#disk = disk
    this.#cipher = cipher
    if (disk.flush !== undefined) this.flush = (signal) => disk.flush!(signal)
    if (discards && disk.discard !== undefined) this.discard = (offset, length, signal) => disk.discard!(HEADER_BYTES + offset, length, signal)
  }

  get capacity (): number {
    return Math.floor((this.#disk.capacity - HEADER_BYTES) / this.blockSize) * this.blockSize
  }

  // In memory of our own: the guest sees nothing encrypted, and changes nothing between two looks.
  async read (offset: number, segments: Segments, signal: AbortSignal): Promise<void> {
    const bytes = new Uint8Array(bytesOf(segments))
    await this.#disk.read(HEADER_BYTES + offset, [bytes], signal)
    this.#cipher.decrypt(offset / this.blockSize, bytes)
    scatter(bytes, segments)
  }

  async write (offset: number, segments: Segments, signal: AbortSignal): Promise<void> {
    const bytes = gather(segments)
    this.#cipher.encrypt(offset / this.blockSize, bytes)
    await this.#disk.write!(HEADER_BYTES + offset, [bytes], signal)
  }

  async close (): Promise<void> {
    this.#cipher.close()
    await this.#disk.close?.()
  }

  /** The same as `close()`, for `await using`. */
  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }
}
