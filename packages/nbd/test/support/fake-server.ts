// A server of the test's own: honest where the test does not say otherwise.
import { createServer, type Server, type Socket } from 'node:net'
import { newSocketPath } from './servers.ts'

export interface Asked {
  readonly flags: number
  readonly type: number
  readonly cookie: Buffer
  readonly offset: number
  readonly length: number
  readonly data: Buffer
}

export interface Option {
  readonly number: number
  readonly data: Buffer
}

export interface FakeOptions {
  readonly greeting?: Buffer
  /** The answer to an option; undefined for the honest one. */
  readonly answer?: (option: Option) => Buffer | undefined
  /** What follows a request. @default nothing */
  readonly serve?: (asked: Asked, socket: Socket, connection: number) => void
  readonly size?: number
  readonly flags?: number
  readonly structured?: boolean
  /** What follows the connection. @default reading and answering */
  readonly connected?: (socket: Socket, connection: number) => void
}

/** HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES. */
export const USUAL_FLAGS = 0b1101101

const servers = new Set<FakeServer>()

export async function closeFakeServers (): Promise<void> {
  await Promise.all([...servers].map(async (server) => await server.close()))
}

export class FakeServer {
  readonly path = newSocketPath()
  readonly uri = `nbd+unix:///?socket=${this.path}`
  readonly options: FakeOptions
  /** Every request that came, of all connections. */
  readonly asked: Asked[] = []
  readonly sockets = new Set<Socket>()
  connections = 0
  #server: Server | undefined

  constructor (options: FakeOptions = {}) {
    this.options = options
  }

  static async start (options: FakeOptions = {}): Promise<FakeServer> {
    const server = new FakeServer(options)
    await server.listen()
    return server
  }

  async listen (): Promise<void> {
    servers.add(this)
    this.#server = createServer((socket) => {
      this.sockets.add(socket.on('error', () => {}).on('close', () => this.sockets.delete(socket)))
      const connection = ++this.connections
      if (this.options.connected !== undefined) this.options.connected(socket, connection)
      else void this.#talk(socket, connection).catch(() => socket.destroy())
    })
    await new Promise<void>((resolve) => this.#server!.listen(this.path, resolve))
  }

  /** Ends all connections, and takes no new ones until the next `listen`. */
  async close (): Promise<void> {
    servers.delete(this)
    for (const socket of this.sockets) socket.destroy()
    await new Promise((resolve) => this.#server!.close(resolve))
  }

  async #talk (socket: Socket, connection: number): Promise<void> {
    const { greeting = hello(), answer, size = 1 << 20, flags = USUAL_FLAGS, structured = true, serve } = this.options
    const read = reader(socket)
    socket.write(greeting)
    await read(4)
    for (let chosen = false; !chosen;) {
      const header = await read(16)
      const option = { number: header.readUInt32BE(8), data: await read(header.readUInt32BE(12)) }
      const said = answer?.(option)
      if (said !== undefined) socket.write(said)
      else if (option.number === 8) socket.write(optionReply(8, structured ? 1 : 0x80000001))
      else if (option.number === 7) socket.write(Buffer.concat([optionReply(7, 3, exportInfo(size, flags)), optionReply(7, 1)]))
      else socket.write(optionReply(option.number, 0x80000001))
      const isRefused = said !== undefined && said.length >= 20 && said.readUInt32BE(12) >= 0x80000000
      chosen = option.number === 1 || (option.number === 7 && !isRefused)
    }
    for (;;) {
      const header = await read(28)
      const type = header.readUInt16BE(6)
      const length = header.readUInt32BE(24)
      const asked = {
        flags: header.readUInt16BE(4),
        type,
        cookie: header.subarray(8, 16),
        offset: Number(header.readBigUInt64BE(16)),
        length,
        data: type === 1 ? await read(length) : Buffer.alloc(0)
      }
      if (type === 2) return void socket.end()
      this.asked.push(asked)
      serve?.(asked, socket, connection)
    }
  }
}

export function hello (flags = 3): Buffer {
  return Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT'), u16(flags)])
}

export function optionReply (option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([Buffer.from('0003e889045565a9', 'hex'), u32(option), u32(type), u32(data.length), data])
}

export function exportInfo (size: number | bigint, flags = USUAL_FLAGS): Buffer {
  return Buffer.concat([u16(0), u64(size), u16(flags)])
}

export function blockInfo (minimum: number, preferred: number, maximum: number): Buffer {
  return Buffer.concat([u16(3), u32(minimum), u32(preferred), u32(maximum)])
}

export function simpleReply (cookie: Buffer, error = 0, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u32(0x67446698), u32(error), cookie, data])
}

export function chunk (cookie: Buffer, type: number, payload: Buffer = Buffer.alloc(0), isLast = true): Buffer {
  return Buffer.concat([u32(0x668e33ef), u16(isLast ? 1 : 0), u16(type), cookie, u32(payload.length), payload])
}

export function dataChunk (cookie: Buffer, offset: number | bigint, data: Buffer, isLast = true): Buffer {
  return chunk(cookie, 1, Buffer.concat([u64(offset), data]), isLast)
}

export function holeChunk (cookie: Buffer, offset: number, length: number, isLast = true): Buffer {
  return chunk(cookie, 2, Buffer.concat([u64(offset), u32(length)]), isLast)
}

export function errorChunk (cookie: Buffer, error: number, message = '', isLast = true): Buffer {
  return chunk(cookie, 0x8001, Buffer.concat([u32(error), u16(Buffer.byteLength(message)), Buffer.from(message)]), isLast)
}

export function u16 (value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}

export function u32 (value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function u64 (value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

/** Reads exactly so many bytes; fails at the end of the stream. */
function reader (socket: Socket): (length: number) => Promise<Buffer> {
  let have = Buffer.alloc(0)
  let wake = (): void => {}
  let ended = false
  socket.on('data', (bytes) => {
    have = Buffer.concat([have, bytes])
    wake()
  }).on('close', () => {
    ended = true
    wake()
  })
  return async (length) => {
    while (have.length < length) {
      if (ended) throw new Error('end')
      await new Promise<void>((resolve) => { wake = resolve })
    }
    const bytes = have.subarray(0, length)
    have = have.subarray(length)
    return bytes
  }
}
