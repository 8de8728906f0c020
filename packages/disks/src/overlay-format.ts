/**
 * The overlay's file: one page of header, the map of its clusters, then the clusters, each at its fixed place. The file is
 * as long as it ever gets, and sparse. All numbers are little-endian.
 *
 * | bytes | |
 * | --- | --- |
 * | 0–15 | `node-vmm overlay`, in ASCII |
 * | 16–19 | version: 1 |
 * | 20–23 | bytes of a cluster: a power of two, 4096 to 2 MiB |
 * | 24–31 | bytes of the disk |
 * | 32–39 | bytes of its base |
 * | 40–47 | where the first cluster is: the first multiple of the cluster size after the map |
 * | 48–51 | CRC-32 of the 4096 bytes of header, these four taken as 0 |
 * | 52–55 | bytes of the base's name, at most 1024 |
 * | 64–  | the base's name, a path in UTF-8; none for a base that is no raw image |
 * | 4096– | the map: two bits a cluster, the first in the lowest bits of the first byte; 0 absent, 1 zero, 2 present |
 */
import type { DiskFile } from './disk-file.ts'
import { DiskError } from './errors.ts'
import { crc32 } from 'node:zlib'

const MAGIC = 'node-vmm overlay'
const VERSION = 1
/** Bytes of the header, and of a page of the map: what is written at once. */
export const PAGE_BYTES = 4096
const CRC_AT = 48
const NAME_AT = 64
const NAME_MAX = 1024
export const CLUSTER_MIN = 4096
export const CLUSTER_MAX = 2 << 20
export const CLUSTER_DEFAULT = 65536

/** What the overlay has of a cluster: nothing, so that it reads as the base; zeroes; data of its own. */
export const ABSENT = 0
export const ZERO = 1
export const PRESENT = 2
export type ClusterState = typeof ABSENT | typeof ZERO | typeof PRESENT

/** What an overlay's header says. */
export interface OverlayHeader {
  /** Bytes of the disk. */
  readonly capacity: number
  /** Bytes of a cluster. */
  readonly clusterSize: number
  /** Bytes of the base. */
  readonly baseSize: number
  /** The path of the base, absolute; empty where that is no raw image. */
  readonly baseName: string
}

/** Clusters of a disk; the last may be a part of one. */
export function clustersOf ({ capacity, clusterSize }: OverlayHeader): number {
  return Math.ceil(capacity / clusterSize)
}

/** Where the first cluster is. */
export function dataStart (header: OverlayHeader): number {
  const mapPages = Math.ceil(clustersOf(header) / 4 / PAGE_BYTES)
  return Math.ceil((1 + mapPages) * PAGE_BYTES / header.clusterSize) * header.clusterSize
}

/** Bytes of the whole file. */
export function fileSize (header: OverlayHeader): number {
  return dataStart(header) + header.capacity
}

/** @throws DiskError ERR_OVERLAY_BASE for a name that is too long */
export function encodeHeader (header: OverlayHeader): Uint8Array {
  const page = Buffer.alloc(PAGE_BYTES)
  const name = Buffer.from(header.baseName)
  if (name.length > NAME_MAX) throw new DiskError('ERR_OVERLAY_BASE', `the path of a base has up to ${NAME_MAX} bytes: not ${name.length}`)
  page.write(MAGIC, 'latin1')
  page.writeUInt32LE(VERSION, 16)
  page.writeUInt32LE(header.clusterSize, 20)
  page.writeBigUInt64LE(BigInt(header.capacity), 24)
  page.writeBigUInt64LE(BigInt(header.baseSize), 32)
  page.writeBigUInt64LE(BigInt(dataStart(header)), 40)
  page.writeUInt32LE(name.length, 52)
  name.copy(page, NAME_AT)
  page.writeUInt32LE(crc32(page), CRC_AT)
  return page
}

/** @throws DiskError ERR_OVERLAY for what is no header of this version, or a damaged one */
export function decodeHeader (bytes: Uint8Array, path: string): OverlayHeader {
  const page = Buffer.from(bytes)
  if (page.toString('latin1', 0, MAGIC.length) !== MAGIC) {
    throw new DiskError('ERR_OVERLAY', `${path} is no overlay: it does not begin with '${MAGIC}'. An overlay is made where its file does not exist yet.`)
  }
  const version = page.readUInt32LE(16)
  if (version !== VERSION) throw new DiskError('ERR_OVERLAY', `${path} is an overlay of version ${version}, and this software knows ${VERSION} only: use the newer one.`)
  const crc = page.readUInt32LE(CRC_AT)
  page.writeUInt32LE(0, CRC_AT)
  if (crc32(page) !== crc) throw damaged(path, 'its header does not fit its checksum')
  const header = {
    clusterSize: page.readUInt32LE(20),
    capacity: Number(page.readBigUInt64LE(24)),
    baseSize: Number(page.readBigUInt64LE(32)),
    baseName: page.toString('utf8', NAME_AT, NAME_AT + page.readUInt32LE(52))
  }
  // A checksum is no signature: what could lead astray is looked at all the same.
  if (!isClusterSize(header.clusterSize) || !isSize(header.capacity) || !isSize(header.baseSize) || Number(page.readBigUInt64LE(40)) !== dataStart(header)) {
    throw damaged(path, 'its header makes no sense')
  }
  return header
}

/** @internal */
export function isClusterSize (bytes: number): boolean {
  return bytes >= CLUSTER_MIN && bytes <= CLUSTER_MAX && Number.isInteger(Math.log2(bytes))
}

function isSize (bytes: number): boolean {
  return Number.isSafeInteger(bytes) && bytes > 0
}

/** @internal */
export function damaged (path: string, how: string): DiskError {
  return new DiskError('ERR_OVERLAY', `the overlay ${path} is damaged: ${how}. Restore it from a copy.`)
}

/** The map of an overlay's clusters, in memory, and which of its pages the file does not have yet. */
export class ClusterMap {
  readonly #bytes: Uint8Array
  readonly #dirty = new Set<number>()

  private constructor (bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** @throws DiskError ERR_OVERLAY for a state that does not exist */
  static async read (file: DiskFile, header: OverlayHeader, path: string): Promise<ClusterMap> {
    const bytes = new Uint8Array(Math.ceil(clustersOf(header) / 4 / PAGE_BYTES) * PAGE_BYTES)
    await file.read(PAGE_BYTES, [bytes])
    const wrong = bytes.findIndex((four) => (four & four >>> 1 & 0x55) !== 0)
    if (wrong !== -1) throw damaged(path, `its map has no state of one of the clusters ${wrong * 4} to ${wrong * 4 + 3}`)
    return new ClusterMap(bytes)
  }

  get (cluster: number): ClusterState {
    return (this.#bytes[cluster >>> 2]! >>> (cluster & 3) * 2 & 3) as ClusterState
  }

  set (cluster: number, state: ClusterState): void {
    const shift = (cluster & 3) * 2
    const at = cluster >>> 2
    this.#bytes[at] = this.#bytes[at]! & ~(3 << shift) | state << shift
    this.#dirty.add(Math.floor(at / PAGE_BYTES))
  }

  /** The pages that changed since the last call, as they are now: what changes later is not in them. */
  takeChanges (): Map<number, Uint8Array> {
    const pages = new Map([...this.#dirty].map((page) => [page, this.#bytes.slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)]))
    this.#dirty.clear()
    return pages
  }

  /** These pages could not be written. */
  putBack (pages: Iterable<number>): void {
    for (const page of pages) this.#dirty.add(page)
  }
}
