import { violation } from './errors.ts'

// Numbers are in native byte order: little-endian on both processors that these packages run on.

/** Bytes of a message's header: request, flags and size, 32 bits each (vhost-user, "Message Specification", "Header"). */
export const HEADER_BYTES = 12
/** The largest payload taken. The specification names no limit; its largest message has 264 bytes. */
export const PAYLOAD_BYTES_MAX = 4096
/** The most descriptors taken with one message. The specification's most is 8, with a memory table. */
export const MESSAGE_FDS_MAX = 32

const VERSION = 0x1
const VERSION_MASK = 0x3
/** Header flag: this message is a reply. */
export const FLAG_REPLY = 0x4
/** Header flag: answer with success or failure, once REPLY_ACK is agreed. */
export const FLAG_NEED_REPLY = 0x8

/** What a front-end asks of a back-end ("Front-end message types"), by name. */
export const FrontEndRequest = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SEND_RARP: 19,
  NET_SET_MTU: 20,
  SET_BACKEND_REQ_FD: 21,
  IOTLB_MSG: 22,
  SET_VRING_ENDIAN: 23,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  CREATE_CRYPTO_SESSION: 26,
  CLOSE_CRYPTO_SESSION: 27,
  POSTCOPY_ADVISE: 28,
  POSTCOPY_LISTEN: 29,
  POSTCOPY_END: 30,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  GPU_SET_SOCKET: 33,
  RESET_DEVICE: 34,
  VRING_KICK: 35,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
  GET_SHARED_OBJECT: 41,
  SET_DEVICE_STATE_FD: 42,
  CHECK_DEVICE_STATE: 43,
  GET_SHMEM_CONFIG: 44
} as const

/** What a back-end asks of a front-end, over a channel of its own ("Back-end message types"), by name. */
export const BackEndRequest = {
  IOTLB_MSG: 1,
  CONFIG_CHANGE: 2,
  VRING_HOST_NOTIFIER: 3,
  VRING_CALL: 4,
  VRING_ERR: 5,
  SHARED_OBJECT_ADD: 6,
  SHARED_OBJECT_REMOVE: 7,
  SHARED_OBJECT_LOOKUP: 8,
  SHMEM_MAP: 9,
  SHMEM_UNMAP: 10
} as const

const { GET_FEATURES, GET_PROTOCOL_FEATURES, GET_VRING_BASE, GET_QUEUE_NUM, GET_CONFIG, IOTLB_MSG, GET_INFLIGHT_FD } = FrontEndRequest
const { CREATE_CRYPTO_SESSION, POSTCOPY_ADVISE, POSTCOPY_END, GET_MAX_MEM_SLOTS, GET_STATUS } = FrontEndRequest
const { GET_SHARED_OBJECT, SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE, GET_SHMEM_CONFIG } = FrontEndRequest

/**
 * The requests whose reply is more than success or failure: a front-end waits for it whatever was negotiated.
 * SET_LOG_BASE is one only with LOG_SHMFD.
 */
const answered: ReadonlySet<number> = new Set([
  GET_FEATURES, GET_PROTOCOL_FEATURES, GET_VRING_BASE, GET_QUEUE_NUM, GET_CONFIG, IOTLB_MSG, GET_INFLIGHT_FD,
  CREATE_CRYPTO_SESSION, POSTCOPY_ADVISE, POSTCOPY_END, GET_MAX_MEM_SLOTS, GET_STATUS,
  GET_SHARED_OBJECT, SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE, GET_SHMEM_CONFIG
])

/** Whether a front-end's request has a reply of its own, beside the acknowledgement that need_reply asks for. */
export function hasOwnReply (request: number): boolean {
  return answered.has(request)
}

const frontEndNames = namesOf(FrontEndRequest)
const backEndNames = namesOf(BackEndRequest)

function namesOf (requests: Readonly<Record<string, number>>): ReadonlyMap<number, string> {
  return new Map(Object.entries(requests).map(([name, code]) => [code, name]))
}

/** The name of a front-end's request, `'GET_FEATURES'` for 1; `'request 99'` for one that has none here. */
export function frontEndRequestName (request: number): string {
  return frontEndNames.get(request) ?? `request ${request}`
}

/** The name of a back-end's request, `'CONFIG_CHANGE'` for 2. */
export function backEndRequestName (request: number): string {
  return backEndNames.get(request) ?? `back-end request ${request}`
}

/** One message, either way. */
export interface Message {
  /** A code of `FrontEndRequest` or, on the back-end's own channel, of `BackEndRequest`. */
  readonly request: number
  /** Whether it answers one ({@link FLAG_REPLY}). */
  readonly isReply: boolean
  /** Whether its success or failure is to be answered ({@link FLAG_NEED_REPLY}). */
  readonly needsReply: boolean
  /** Up to `PAYLOAD_BYTES_MAX` bytes. */
  readonly payload: Uint8Array
  /** The descriptors that came along. Whoever uses one takes it out; what is left here is closed. */
  readonly fds: number[]
}

/** What a header says. */
export type Header = Pick<Message, 'request' | 'isReply' | 'needsReply'> & {
  /** Bytes of the payload. */
  readonly size: number
}

/** @throws VhostUserError ERR_VHOST_USER_PROTOCOL when what follows cannot be found: another version, or a size beyond `PAYLOAD_BYTES_MAX` */
export function decodeHeader (bytes: Uint8Array): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES)
  const [request, flags, size] = [view.getUint32(0, true), view.getUint32(4, true), view.getUint32(8, true)]
  if ((flags & VERSION_MASK) !== VERSION) throw violation(`a message of version ${flags & VERSION_MASK}: version ${VERSION} is spoken here`)
  if (size > PAYLOAD_BYTES_MAX) throw violation(`a payload of ${size} bytes: ${PAYLOAD_BYTES_MAX} are taken at most`)
  return { request, isReply: (flags & FLAG_REPLY) !== 0, needsReply: (flags & FLAG_NEED_REPLY) !== 0, size }
}

/** A message's bytes. @param flags FLAG_REPLY or FLAG_NEED_REPLY; never both: peers refuse a reply with other flags than 0x5 */
export function encodeMessage (request: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, request, true)
  view.setUint32(4, VERSION | flags, true)
  view.setUint32(8, payload.length, true)
  bytes.set(payload, HEADER_BYTES)
  return bytes
}

/** Sees each message that passes. The payload is not given: it may hold addresses of the guest. */
export type MessageObserver = (direction: 'received' | 'sent', name: string, size: number, fds: number) => void
