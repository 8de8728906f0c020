// From a fresh connection to the transmission phase, in the fixed newstyle way: the clauses "Fixed newstyle
// negotiation", "Option types" and "Option reply types" of the specification.
import type { ResolvedAddress } from './address.ts'
import { NbdError, quoted, violation } from './errors.ts'
import { HandshakeReader } from './handshake-reader.ts'
import {
  DEFAULT_MAXIMUM, IHAVEOPT, NBDMAGIC, NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_HAS_FLAGS, NBD_FLAG_NO_ZEROES, NBD_INFO_BLOCK_SIZE, NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_OPT_ABORT, NBD_OPT_EXPORT_NAME, NBD_OPT_GO, NBD_OPT_LIST, NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, NBD_REP_ERR_BLOCK_SIZE_REQD, NBD_REP_ERR_INVALID, NBD_REP_ERR_PLATFORM,
  NBD_REP_ERR_POLICY, NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR_TLS_REQD, NBD_REP_ERR_TOO_BIG, NBD_REP_ERR_UNKNOWN, NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR, NBD_REP_INFO, NBD_REP_MAGIC, NBD_REP_SERVER, STRING_BYTES_MAX
} from './protocol.ts'
import { Transport } from './transport.ts'

/** What the server allows of offsets and lengths, in bytes. */
export interface BlockSizes {
  /** Offsets and lengths must be multiples of it: a power of two, 1 to 65536. 1 where the server does not say. */
  readonly minimum: number
  /** The smallest that is efficient: a power of two. 4096 where the server does not say. */
  readonly preferred: number
  /** The most data of one request; larger ones are split by the client. 32 MiB where the server does not say. */
  readonly maximum: number
}

/** What the server says of an export. */
export interface ExportInfo {
  /** Bytes. */
  readonly size: number
  /** Transmission flags: a mask of `NBD_FLAG_*`. */
  readonly flags: number
  /** What it allows of offsets and lengths. */
  readonly blockSize: BlockSizes
  /** The export's name as the server has it, where it says so: the default export may have one. */
  readonly name: string | undefined
  /** For a human being, where the server has one. */
  readonly description: string | undefined
  /** Reads are answered in chunks, with holes and messages. */
  readonly structuredReplies: boolean
  /** The connection is encrypted. */
  readonly encrypted: boolean
}

/** An export of a server. */
export interface NbdExport {
  /** What `exportName` is to say. */
  readonly name: string
  /** For a human being. */
  readonly description: string
}

/** A connection in the transmission phase. */
export interface Agreed {
  readonly transport: Transport
  readonly info: ExportInfo
}

/** Longer than any reply: an export's name and its description, with their lengths. */
const REPLY_BYTES_MAX = 2 * STRING_BYTES_MAX + 8
/** Where a server lists more exports, or says more of one, it means us no good. */
const REPLIES_MAX = 65536

const ZERO_BYTES = 124

interface OptionReply {
  readonly type: number
  readonly data: Buffer
}

/**
 * Connects and chooses the export.
 *
 * @throws NbdError ERR_NBD_CONNECT, ERR_NBD_REFUSED, ERR_NBD_PROTOCOL; the signal's reason
 */
export async function openExport (address: ResolvedAddress, signal: AbortSignal): Promise<Agreed> {
  return await shakeHands(address, signal, async (hands) => await hands.choose())
}

/**
 * Connects, asks for the names of the exports, and ends.
 *
 * @throws as {@link openExport}
 */
export async function listExports (address: ResolvedAddress, signal: AbortSignal): Promise<NbdExport[]> {
  return await shakeHands(address, signal, async (hands) => await hands.list())
}

async function shakeHands<Result> (
  address: ResolvedAddress, signal: AbortSignal, use: (hands: Handshake) => Promise<Result>
): Promise<Result> {
  signal.throwIfAborted()
  const reader = new HandshakeReader()
  const opening = Transport.open(address, reader)
  const transport = await unless(signal, opening, () => { opening.then((late) => late.destroy(signal.reason), () => {}) })
  // The reader is told of the end after what it has read: a server's last words may be the reason.
  transport.onEnd = (error) => reader.fail(error instanceof NbdError ? error : new NbdError('ERR_NBD_CONNECT',
    `${address.text} ended the connection during the handshake: ${error.message}`, { cause: error }))
  const onAbort = (): void => transport.destroy(signal.reason)
  signal.addEventListener('abort', onAbort)
  try {
    const hands = new Handshake(address, transport, reader)
    await hands.greet()
    return await use(hands)
  } catch (error) {
    transport.destroy(error as Error)
    throw signal.aborted ? signal.reason : error
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** The promise, unless the signal comes first. */
async function unless<Result> (signal: AbortSignal, promise: Promise<Result>, giveUp: () => void): Promise<Result> {
  let onAbort!: () => void
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => {
      giveUp()
      reject(signal.reason)
    }
    signal.addEventListener('abort', onAbort)
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

class Handshake {
  readonly #address: ResolvedAddress
  readonly #transport: Transport
  readonly #reader: HandshakeReader
  #zeroes = ZERO_BYTES

  constructor (address: ResolvedAddress, transport: Transport, reader: HandshakeReader) {
    this.#address = address
    this.#transport = transport
    this.#reader = reader
  }

  /** Agrees on fixed newstyle negotiation, and on encryption where it is wanted. */
  async greet (): Promise<void> {
    const hello = await this.#reader.read(16)
    if (!startsWith(hello, NBDMAGIC)) throw violation(`it greets with ${quoted(hello)}: this is no NBD server`)
    if (!startsWith(hello.subarray(8), IHAVEOPT)) throw refused(this.#address, 'it speaks the oldstyle protocol, gone since 2015: use a newer server')
    const flags = (await this.#reader.read(2)).readUInt16BE()
    if ((flags & NBD_FLAG_FIXED_NEWSTYLE) === 0) throw refused(this.#address, 'it is no fixed newstyle server: use a newer one')
    if ((flags & NBD_FLAG_NO_ZEROES) !== 0) this.#zeroes = 0
    this.#send(word(flags & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)))
    if (this.#address.tls === undefined) return
    const { type, data } = await this.#ask(NBD_OPT_STARTTLS)
    if (type !== NBD_REP_ACK) throw this.#refusal(type, data, 'it does not encrypt')
    // What came in the clear after the answer was put there by someone between us and the server.
    if (this.#reader.rest.length > 0) throw violation('bytes in the clear after the start of encryption')
    await this.#transport.startTls(this.#address.tls)
  }

  async list (): Promise<NbdExport[]> {
    const exports: NbdExport[] = []
    const { type, data } = await this.#ask(NBD_OPT_LIST, [], (reply) => {
      if (reply.type !== NBD_REP_SERVER || reply.data.length < 4) throw violation(`reply of type ${reply.type} to LIST`)
      const end = 4 + reply.data.readUInt32BE()
      if (end > reply.data.length) throw violation('the name of an export is longer than its message')
      exports.push({ name: reply.data.toString('utf8', 4, end), description: reply.data.toString('utf8', end) })
    })
    if (type !== NBD_REP_ACK) throw this.#refusal(type, data, 'it does not list its exports')
    this.#transport.finish([option(NBD_OPT_ABORT)])
    return exports
  }

  async choose (): Promise<Agreed> {
    const structured = await this.#ask(NBD_OPT_STRUCTURED_REPLY)
    if (structured.type === NBD_REP_ERR_TLS_REQD) throw this.#refusal(structured.type, structured.data, '')
    const structuredReplies = structured.type === NBD_REP_ACK
    const told = await this.#go() ?? await this.#chooseInTheOldWay()
    if (told.size === undefined) throw violation('it does not tell the size of the export')
    if (this.#reader.rest.length > 0) throw violation('it answers before it is asked')
    return {
      transport: this.#transport,
      info: {
        size: told.size,
        flags: checkedFlags(told.flags!),
        blockSize: told.blockSize ?? { minimum: 1, preferred: 4096, maximum: DEFAULT_MAXIMUM },
        name: told.name,
        description: told.description,
        structuredReplies,
        encrypted: this.#address.tls !== undefined
      }
    }
  }

  /** @returns undefined where the server does not know the option */
  async #go (): Promise<Told | undefined> {
    const name = Buffer.from(this.#address.exportName)
    const told: Told = {}
    const wanted = [NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE]
    const { type, data } = await this.#ask(NBD_OPT_GO, [word(name.length), name, halves([wanted.length, ...wanted])], (reply) => {
      if (reply.type !== NBD_REP_INFO || reply.data.length < 2) throw violation(`reply of type ${reply.type} to GO`)
      takeInfo(told, reply.data.readUInt16BE(), reply.data.subarray(2))
    })
    if (type === NBD_REP_ACK) return told
    if (type === NBD_REP_ERR_UNSUP) return undefined
    throw this.#refusal(type, data, `the export ${JSON.stringify(this.#address.exportName)} cannot be had`)
  }

  /** EXPORT_NAME is answered by the size at once, or by the end of the connection. */
  async #chooseInTheOldWay (): Promise<Told> {
    this.#send(option(NBD_OPT_EXPORT_NAME, [Buffer.from(this.#address.exportName)]))
    const told: Told = {}
    takeInfo(told, NBD_INFO_EXPORT, await this.#reader.read(10))
    await this.#reader.read(this.#zeroes)
    return told
  }

  /** Sends an option, hands the replies that are not the last to `take`, and returns the last. */
  async #ask (number: number, data: readonly Uint8Array[] = [], take?: (reply: OptionReply) => void): Promise<OptionReply> {
    this.#send(option(number, data))
    for (let count = 0; count < REPLIES_MAX; count++) {
      const header = await this.#reader.read(20)
      if (!startsWith(header, NBD_REP_MAGIC)) throw violation('a reply to an option does not begin as one')
      if (header.readUInt32BE(8) !== number) throw violation(`reply to option ${header.readUInt32BE(8)}, not ${number}`)
      const length = header.readUInt32BE(16)
      if (length > REPLY_BYTES_MAX) throw violation(`reply of ${length} bytes to option ${number}`)
      const reply = { type: header.readUInt32BE(12), data: Buffer.from(await this.#reader.read(length)) }
      if (reply.type === NBD_REP_ACK || reply.type >= NBD_REP_FLAG_ERROR) return reply
      if (take === undefined) throw violation(`reply of type ${reply.type} to option ${number}`)
      take(reply)
    }
    throw violation(`more than ${REPLIES_MAX} replies to option ${number}`)
  }

  #send (...pieces: Uint8Array[]): void {
    if (this.#transport.ended === undefined) this.#transport.send(pieces, () => {})
  }

  #refusal (type: number, data: Buffer, what: string): NbdError {
    const words = data.length > 0 ? `, and says ${quoted(data)}` : ''
    return refused(this.#address, `${[what, reasons.get(type) ?? `error ${type}`].filter(Boolean).join(': ')}${words}`)
  }
}

const reasons = new Map([
  [NBD_REP_ERR_UNSUP, 'it does not know how'],
  [NBD_REP_ERR_POLICY, 'it is not allowed to'],
  [NBD_REP_ERR_INVALID, 'it finds the request invalid'],
  [NBD_REP_ERR_PLATFORM, 'it cannot, on its platform'],
  [NBD_REP_ERR_TLS_REQD, 'it insists on encryption: use nbds:// or the option tls'],
  [NBD_REP_ERR_UNKNOWN, 'it does not have it (NbdClient.list tells what it has)'],
  [NBD_REP_ERR_SHUTDOWN, 'it is shutting down'],
  [NBD_REP_ERR_BLOCK_SIZE_REQD, 'it wants block sizes to be asked for'],
  [NBD_REP_ERR_TOO_BIG, 'the request is too big']
])

interface Told {
  size?: number
  flags?: number
  name?: string
  description?: string
  blockSize?: BlockSizes
}

function takeInfo (told: Told, type: number, data: Buffer): void {
  if (type === NBD_INFO_EXPORT) {
    if (data.length !== 10) throw violation(`information on the export of ${data.length} bytes`)
    told.size = checkedSize(data.readBigUInt64BE())
    told.flags = data.readUInt16BE(8)
  } else if (type === NBD_INFO_BLOCK_SIZE) {
    if (data.length !== 12) throw violation(`block sizes of ${data.length} bytes`)
    told.blockSize = checkedSizes(data.readUInt32BE(0), data.readUInt32BE(4), data.readUInt32BE(8))
  } else if (type === NBD_INFO_NAME) {
    told.name = data.toString()
  } else if (type === NBD_INFO_DESCRIPTION) {
    told.description = data.toString()
  }
  // Others are to be ignored.
}

function checkedSize (size: bigint): number {
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw violation(`an export of ${size} bytes`)
  return Number(size)
}

/** Without HAS_FLAGS, the others mean nothing. */
function checkedFlags (flags: number): number {
  return (flags & NBD_FLAG_HAS_FLAGS) === 0 ? 0 : flags
}

function checkedSizes (minimum: number, preferred: number, maximum: number): BlockSizes {
  const valid = isPowerOfTwo(minimum) && minimum <= 65536 && isPowerOfTwo(preferred) && preferred >= minimum && maximum >= minimum
  if (!valid) throw violation(`block sizes of ${minimum}, ${preferred} and ${maximum}`)
  return { minimum, preferred, maximum }
}

function isPowerOfTwo (value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value))
}

function refused (address: ResolvedAddress, why: string): NbdError {
  return new NbdError('ERR_NBD_REFUSED', `the NBD server ${address.text} cannot be used: ${why}`)
}

function startsWith (bytes: Buffer, magic: readonly [number, number]): boolean {
  return bytes.readUInt32BE(0) === magic[0] && bytes.readUInt32BE(4) === magic[1]
}

function option (number: number, data: readonly Uint8Array[] = []): Buffer {
  const body = Buffer.concat(data)
  return Buffer.concat([word(IHAVEOPT[0]), word(IHAVEOPT[1]), word(number), word(body.length), body])
}

function word (value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function halves (values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(2 * values.length)
  values.forEach((value, index) => bytes.writeUInt16BE(value, 2 * index))
  return bytes
}
