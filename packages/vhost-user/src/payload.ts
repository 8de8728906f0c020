import { refused } from './errors.ts'

// The payloads of docs/interop/vhost-user.rst, "Payload". Decoders take what a peer sent: each checks the size, and
// refuses a number that is no address here (2^53 and above).

/** Bytes of the largest configuration space: what QEMU transports (VHOST_USER_MAX_CONFIG_SIZE). */
export const CONFIG_BYTES_MAX = 256
/** The most regions that one memory table brings. The specification has 8. */
export const TABLE_REGIONS_MAX = 32
/** The most memory regions in all, the number that libvhost-user answers to GET_MAX_MEM_SLOTS. */
export const MEMORY_SLOTS_MAX = 509

const CONFIG_HEADER_BYTES = 12
const TABLE_HEADER_BYTES = 8
const REGION_BYTES = 32
const LOG_BYTES = 16
// The fields have 20 bytes; as a C structure, which is what most peers send, they have 24.
const INFLIGHT_BYTES = 24
const INFLIGHT_BYTES_PACKED = 20
const VRING_INDEX_MASK = 0xffn
const VRING_NO_FD = 0x100n

/** No payload. */
export const NOTHING = new Uint8Array(0)

/** The flag of a vring address by which writes to the used ring are logged, too (VHOST_VRING_F_LOG). */
export const VRING_FLAG_LOG = 1

/** "A vring state description": a ring's index, and its size, its base or whether it is enabled. */
export interface VringState {
  /** The ring, from 0. */
  readonly index: number
  /** What the request makes of it, 32 bits. */
  readonly num: number
}

/** "A vring address description". Addresses are the front-end's own (user addresses). */
export interface VringAddress {
  /** The ring, from 0. */
  readonly index: number
  /** Descriptor table, a multiple of 16; packed: descriptor ring. */
  readonly descriptor: number
  /** Available ring, a multiple of 2; packed: driver area, of 4. */
  readonly available: number
  /** Used ring, a multiple of 4; packed: device area. */
  readonly used: number
  /** `VRING_FLAG_LOG`, or 0. @default 0 */
  readonly flags?: number
  /** Where in the log the used ring stands, a guest address; meaningless without the flag. @default 0 */
  readonly log?: bigint
}

/** One region of "Memory regions description". */
export interface RegionDescription {
  /** Guest address of its first byte. */
  readonly guestAddress: number
  /** Bytes. */
  readonly size: number
  /** Where the front-end has it. */
  readonly userAddress: number
  /** Where in the passed file it begins ("mmap offset"). */
  readonly offset: number
}

/** "Log description": where in the passed file the log of written pages is. */
export interface LogDescription {
  /** Bytes. */
  readonly size: number
  /** Where in the file it begins. */
  readonly offset: number
}

/** "Inflight description": where in the passed file the records of what is in flight are, and of which rings. */
export interface InflightDescription {
  /** Bytes; 0 in a request for a region, and in an answer that there is none. */
  readonly size: number
  /** Where in the file they begin. */
  readonly offset: number
  /** How many queues have a record. */
  readonly queues: number
  /** Descriptors of the largest ring that a record is for. */
  readonly queueSize: number
}

/** "Virtio device config space": a range and, where it goes along, its bytes. */
export interface ConfigRange {
  /** Its first byte in the configuration space. */
  readonly offset: number
  /** Bytes. */
  readonly size: number
  /** 0 for a write of the guest's, 1 for live migration. */
  readonly flags: number
  /** As many bytes as `size`. */
  readonly data: Uint8Array
}

/** The ring that a descriptor is for, and whether one comes along. */
export interface VringDescriptor {
  /** The ring, 0 to 255. */
  readonly index: number
  /** Whether a descriptor comes along. */
  readonly hasFd: boolean
}

/** A request without payload. @throws VhostUserError ERR_VHOST_USER_REFUSED for any, as all decoders here do for another size, and for what is no address */
export function decodeNothing (payload: Uint8Array): undefined {
  view(payload, 0)
}

/** "A single 64-bit integer". */
export function encodeU64 (value: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, value, true)
  return bytes
}

/** See `encodeU64`. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeU64 (payload: Uint8Array): bigint {
  return view(payload, 8).getBigUint64(0, true)
}

/** See `VringState`. */
export function encodeVringState ({ index, num }: VringState): Uint8Array {
  const bytes = new Uint8Array(8)
  const out = new DataView(bytes.buffer)
  out.setUint32(0, index, true)
  out.setUint32(4, num, true)
  return bytes
}

/** See `VringState`. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeVringState (payload: Uint8Array): VringState {
  const from = view(payload, 8)
  return { index: from.getUint32(0, true), num: from.getUint32(4, true) }
}

/** The payload of SET_VRING_KICK, _CALL and _ERR: the index in bits 0 to 7, and bit 8 when no descriptor comes along. */
export function encodeVringDescriptor ({ index, hasFd }: VringDescriptor): Uint8Array {
  return encodeU64(BigInt(index) | (hasFd ? 0n : VRING_NO_FD))
}

/** See `encodeVringDescriptor`. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeVringDescriptor (payload: Uint8Array): VringDescriptor {
  const value = decodeU64(payload)
  if ((value & ~(VRING_INDEX_MASK | VRING_NO_FD)) !== 0n) throw refused(`0x${value.toString(16)} is no ring index: it has 8 bits`)
  return { index: Number(value & VRING_INDEX_MASK), hasFd: (value & VRING_NO_FD) === 0n }
}

/** See `VringAddress`. */
export function encodeVringAddress ({ index, descriptor, available, used, flags = 0, log = 0n }: VringAddress): Uint8Array {
  const bytes = new Uint8Array(40)
  const out = new DataView(bytes.buffer)
  out.setUint32(0, index, true)
  out.setUint32(4, flags, true)
  for (const [at, address] of [[8, descriptor], [16, used], [24, available]] as const) out.setBigUint64(at, BigInt(address), true)
  out.setBigUint64(32, log, true)
  return bytes
}

/** See `VringAddress`. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeVringAddress (payload: Uint8Array): Required<VringAddress> {
  const from = view(payload, 40)
  return {
    index: from.getUint32(0, true),
    flags: from.getUint32(4, true),
    descriptor: address(from, 8),
    used: address(from, 16),
    available: address(from, 24),
    // Never an address of this process, and all ones where the front-end has no log.
    log: from.getBigUint64(32, true)
  }
}

/** "Memory regions description"; the files go along as descriptors, one for each region in the same order. */
export function encodeMemoryTable (regions: readonly RegionDescription[]): Uint8Array {
  const bytes = new Uint8Array(TABLE_HEADER_BYTES + REGION_BYTES * regions.length)
  const out = new DataView(bytes.buffer)
  out.setUint32(0, regions.length, true)
  regions.forEach((region, index) => putRegion(out, TABLE_HEADER_BYTES + REGION_BYTES * index, region))
  return bytes
}

/** The regions of a table. Room for more of them may follow, unused: some front-ends send their whole array. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeMemoryTable (payload: Uint8Array): RegionDescription[] {
  if (payload.length < TABLE_HEADER_BYTES) throw wrongSize(payload, `${TABLE_HEADER_BYTES} or more`)
  const from = new DataView(payload.buffer, payload.byteOffset, payload.length)
  const count = from.getUint32(0, true)
  if (count > TABLE_REGIONS_MAX) throw refused(`a table of ${count} memory regions: ${TABLE_REGIONS_MAX} are taken at most`)
  const room = (payload.length - TABLE_HEADER_BYTES) / REGION_BYTES
  if (count > room || !Number.isInteger(room)) throw wrongSize(payload, `${TABLE_HEADER_BYTES} and ${REGION_BYTES} for each of ${count} regions`)
  return Array.from({ length: count }, (_, index) => getRegion(from, TABLE_HEADER_BYTES + REGION_BYTES * index))
}

/** "Single memory region description". */
export function encodeRegion (region: RegionDescription): Uint8Array {
  const bytes = new Uint8Array(8 + REGION_BYTES)
  putRegion(new DataView(bytes.buffer), 8, region)
  return bytes
}

/** See `encodeRegion`. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeRegion (payload: Uint8Array): RegionDescription {
  return getRegion(view(payload, 8 + REGION_BYTES), 8)
}

/** See `LogDescription`. */
export function encodeLog ({ size, offset }: LogDescription): Uint8Array {
  const bytes = new Uint8Array(LOG_BYTES)
  const out = new DataView(bytes.buffer)
  out.setBigUint64(0, BigInt(size), true)
  out.setBigUint64(8, BigInt(offset), true)
  return bytes
}

/** See `LogDescription`. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeLog (payload: Uint8Array): LogDescription {
  const from = view(payload, LOG_BYTES)
  return { size: address(from, 0), offset: address(from, 8) }
}

/** See `InflightDescription`. @param length bytes of the payload: 24, or 20 for a peer that sent as many. @default 24 */
export function encodeInflight ({ size, offset, queues, queueSize }: InflightDescription, length: number = INFLIGHT_BYTES): Uint8Array {
  const bytes = new Uint8Array(length === INFLIGHT_BYTES_PACKED ? INFLIGHT_BYTES_PACKED : INFLIGHT_BYTES)
  const out = new DataView(bytes.buffer)
  out.setBigUint64(0, BigInt(size), true)
  out.setBigUint64(8, BigInt(offset), true)
  out.setUint16(16, queues, true)
  out.setUint16(18, queueSize, true)
  return bytes
}

/** See `InflightDescription`: 24 bytes, or 20. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeInflight (payload: Uint8Array): InflightDescription {
  const from = view(payload, payload.length === INFLIGHT_BYTES_PACKED ? INFLIGHT_BYTES_PACKED : INFLIGHT_BYTES)
  return { size: address(from, 0), offset: address(from, 8), queues: from.getUint16(16, true), queueSize: from.getUint16(18, true) }
}

/** See `ConfigRange`. */
export function encodeConfig ({ offset, size, flags, data }: ConfigRange): Uint8Array {
  const bytes = new Uint8Array(CONFIG_HEADER_BYTES + size)
  const out = new DataView(bytes.buffer)
  out.setUint32(0, offset, true)
  out.setUint32(4, size, true)
  out.setUint32(8, flags, true)
  bytes.set(data.subarray(0, size), CONFIG_HEADER_BYTES)
  return bytes
}

/** A range within `CONFIG_BYTES_MAX`, of 1 or more bytes, all of which are there. @throws VhostUserError ERR_VHOST_USER_REFUSED */
export function decodeConfig (payload: Uint8Array): ConfigRange {
  if (payload.length < CONFIG_HEADER_BYTES) throw wrongSize(payload, `${CONFIG_HEADER_BYTES} or more`)
  const from = new DataView(payload.buffer, payload.byteOffset, payload.length)
  const [offset, size, flags] = [from.getUint32(0, true), from.getUint32(4, true), from.getUint32(8, true)]
  if (size === 0 || offset + size > CONFIG_BYTES_MAX) {
    throw refused(`${size} bytes at offset ${offset}: the configuration space has ${CONFIG_BYTES_MAX} bytes`)
  }
  if (payload.length !== CONFIG_HEADER_BYTES + size) throw wrongSize(payload, `${CONFIG_HEADER_BYTES + size}`)
  return { offset, size, flags, data: payload.slice(CONFIG_HEADER_BYTES) }
}

function putRegion (out: DataView, at: number, { guestAddress, size, userAddress, offset }: RegionDescription): void {
  [guestAddress, size, userAddress, offset].forEach((value, index) => out.setBigUint64(at + 8 * index, BigInt(value), true))
}

function getRegion (from: DataView, at: number): RegionDescription {
  return {
    guestAddress: address(from, at),
    size: address(from, at + 8),
    userAddress: address(from, at + 16),
    offset: address(from, at + 24)
  }
}

function address (from: DataView, at: number): number {
  const value = from.getBigUint64(at, true)
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw refused(`0x${value.toString(16)} is beyond any address: 2^53 is the limit here`)
  return Number(value)
}

function view (payload: Uint8Array, size: number): DataView {
  if (payload.length !== size) throw wrongSize(payload, `${size}`)
  return new DataView(payload.buffer, payload.byteOffset, size)
}

function wrongSize (payload: Uint8Array, wanted: string): Error {
  return refused(`a payload of ${payload.length} bytes where ${wanted} belong`)
}
