// What no guest and no front-end may do to the built server, over a real socket: each test poses its case on every
// engine and ring layout, and then the server must be as it was.
import assert from 'node:assert/strict'
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { BlockDriver, SECTOR_BYTES } from '../../packages/virtio-blk-driver/src/index.ts'
import { sectorPattern } from '../../packages/virtio-blk-dataplane/test/support/image.ts'
import { eventually } from './eventually.ts'
import { holdsAgain, processState, settledFootprint } from './footprint.ts'
import { HostileGuest, type GuestOptions, type Layout } from './hostile-guest.ts'
import type { Running } from './processes.ts'
import { testWith } from './programs.ts'
import { type Engine, engineRefused, ourServer, type ServerOptions, startOurs, stop } from './server.ts'
import { cleanUp, MEMORY_FOLDER, temporaryFolder } from './temporary.ts'

export { sectorPattern }

/** Sectors of the disk, each with its pattern; the last `HONEST_SECTORS` are the honest front-end's. */
export const SECTORS = 4096
export const HONEST_SECTORS = 16
/** What GET_ID gives, by `startOurs`. */
export const SERIAL = 'node-vmm-0123456789'

const ENGINES = ['mapped', 'io_uring', 'linux-aio'] as const
export const LAYOUTS: readonly Layout[] = ['split', 'packed']

/** What a case works with. */
export interface Stage {
  readonly engine: Engine
  readonly layout: Layout
  readonly socket: string
  readonly program: Running
  readonly image: string
  /** A front-end whose rings run, closed after the case. */
  connect (options?: Partial<GuestOptions>): Promise<HostileGuest>
  /** One that has agreed on features, and nothing more. */
  open (options?: Partial<GuestOptions>): Promise<HostileGuest>
  /** Sectors of the image, as the host finds them. */
  sectors (sector: number, count: number): Uint8Array
  /** Everything that the body does reaches the server at once: it is stopped meanwhile. */
  frozen (body: () => void | Promise<void>): Promise<void>
}

export type Case = (stage: Stage) => Promise<void>

/** Defines a test for each engine and layout. */
export type Define = (title: string, body: Case, layouts?: readonly Layout[]) => void

/** How the servers of a file are started. */
export interface HostileOptions extends Pick<ServerOptions, 'readOnly' | 'direct' | 'queues' | 'flags'> {
  /** The cases are about disks: not for the engine whose images are in memory. @default false */
  readonly onDisk?: boolean
}

/**
 * Starts a server for each engine before the tests of a file, and ends them after it. Call once a file; then
 * `test.run()`.
 */
export function hostile (options: HostileOptions = {}): Define {
  const servers = new Map<Engine, Served>()
  const posed = ENGINES.filter((engine) => engine !== 'mapped' || options.onDisk !== true)
  const refusals = new Map(posed.map((engine) => [engine, engineRefused(engine)]))
  test.before(async () => {
    if (ourServer() !== undefined) return
    const engines = posed.filter((engine) => refusals.get(engine) === undefined)
    await Promise.all(engines.map(async (engine) => servers.set(engine, await Served.start(engine, options))))
  })
  test.after(async () => {
    await Promise.all([...servers.values()].map(({ program, socket }) => stop(program, socket)))
    await cleanUp()
  })
  return (title, body, layouts = LAYOUTS) => {
    for (const engine of posed) {
      for (const layout of layouts) {
        testWith(ourServer, () => refusals.get(engine))(`${engine}, ${layout} ring: ${title}`, async () => {
          await servers.get(engine)!.survives(layout, body)
        })
      }
    }
  }
}

/** A server, and what it held before any hostile front-end came. */
class Served {
  readonly engine: Engine
  readonly socket: string
  readonly program: Running
  readonly image: string
  readonly #readOnly: boolean
  #before: string[] = []
  #rounds = 0

  private constructor (engine: Engine, socket: string, image: string, program: Running, readOnly: boolean) {
    this.engine = engine
    this.socket = socket
    this.image = image
    this.program = program
    this.#readOnly = readOnly
  }

  static async start (engine: Engine, options: HostileOptions): Promise<Served> {
    const isInMemory = engine === 'mapped'
    const folder = temporaryFolder(isInMemory ? MEMORY_FOLDER : undefined)
    const [socket, image] = [join(folder, 'vhost.sock'), join(folder, 'disk.img')]
    writeFileSync(image, sectorPattern(0, SECTORS))
    const { flags = [], queues = 2, readOnly = false, direct = false } = options
    // In memory there is nothing that the page cache would be in the way of.
    const program = await startOurs(socket, { image, engine, queues, readOnly, direct: direct && !isInMemory, flags: ['--packed', ...flags] })
    const served = new Served(engine, socket, image, program, readOnly)
    for (const layout of LAYOUTS) await served.#servesHonestly(layout)
    // By then it has given back what it had of theirs.
    await eventually('the first sessions are over', () => program.output.split('the session ended').length === 1 + LAYOUTS.length)
    served.#before = await settledFootprint(program.pid)
    return served
  }

  /** Poses a case; then the server must live, serve the next front-end, and hold what it held before. */
  async survives (layout: Layout, body: Case): Promise<void> {
    const guests: HostileGuest[] = []
    const open = async (options: Partial<GuestOptions> = {}): Promise<HostileGuest> => {
      const guest = await HostileGuest.open(this.socket, { layout, ...options })
      guests.push(guest)
      return guest
    }
    const connect = async (options: Partial<GuestOptions> = {}): Promise<HostileGuest> => {
      const guest = await open(options)
      await guest.start()
      return guest
    }
    const { engine, socket, program, image } = this
    try {
      await body({
        engine, layout, socket, program, image, open, connect, sectors: (sector, count) => this.#sectors(sector, count), frozen: (act) => this.#frozen(act)
      })
    } catch (error) {
      (error as Error).message += `\n${program.failure(program.alive ? 'was running' : 'had ended').message}`
      throw error
    } finally {
      for (const guest of guests) guest.close()
    }
    await this.#settled(layout)
  }

  async #settled (layout: Layout): Promise<void> {
    const { program } = this
    assert.ok(program.alive, program.failure('ended').message)
    await this.#servesHonestly(layout)
    await holdsAgain(program.pid, this.#before)
  }

  async #servesHonestly (layout: Layout): Promise<void> {
    const driver = await BlockDriver.connect({ socketPath: this.socket, packed: layout === 'packed', queueSize: 16, memoryBytes: 1 << 20 })
    const sector = SECTORS - HONEST_SECTORS
    const bytes = sectorPattern(sector, HONEST_SECTORS, this.#readOnly ? 0 : ++this.#rounds)
    try {
      if (!this.#readOnly) {
        // The thread that makes the blocking calls of Linux AIO stays, once there was one: it is there before any case.
        await driver.discard(sector * SECTOR_BYTES, bytes.length)
        await driver.write(sector * SECTOR_BYTES, bytes)
      }
      await driver.flush()
      assert.deepEqual(await driver.read(sector * SECTOR_BYTES, bytes.length), bytes)
    } finally {
      await driver.close()
    }
    assert.deepEqual(this.#sectors(sector, HONEST_SECTORS), bytes)
  }

  #sectors (sector: number, count: number): Uint8Array {
    const bytes = new Uint8Array(count * SECTOR_BYTES)
    const fd = openSync(this.image, 'r')
    try {
      const length = readSync(fd, bytes, 0, bytes.length, sector * SECTOR_BYTES)
      return bytes.subarray(0, length)
    } finally {
      closeSync(fd)
    }
  }

  async #frozen (body: () => void | Promise<void>): Promise<void> {
    this.program.signal('SIGSTOP')
    try {
      await eventually('it is stopped', () => processState(this.program.pid) === 'T')
      await body()
    } finally {
      this.program.signal('SIGCONT')
    }
  }
}
