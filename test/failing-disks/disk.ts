// A disk as a guest sees it that is out for errors: the built server, driven over its socket.
import assert from 'node:assert/strict'
import { BlockDriver, VIRTIO_BLK_S_IOERR } from '../../packages/virtio-blk-driver/src/index.ts'
import { sectorPattern } from '../../packages/virtio-blk-dataplane/test/support/image.ts'
import { type Engine, engineRefused, type ServerOptions, withServer } from '../support/server.ts'
import type { Running } from '../support/processes.ts'

export const MIB = 1 << 20

/** The engines that this host has, for an image anywhere. */
export const engines: readonly Engine[] = had('io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync')
/** The same for one in memory. */
export const memoryEngines: readonly Engine[] = [...engines, ...had('mapped')]

function had (...names: Engine[]): Engine[] {
  return names.filter((engine) => {
    const reason = engineRefused(engine)
    if (reason !== undefined) console.log(`note: without ${engine}: ${reason}`)
    return reason === undefined
  })
}

/** A served disk, and what its guest does. */
export interface FailingDisk {
  readonly driver: BlockDriver
  readonly socket: string
  readonly program: Running
}

/** Serves an image to a driver while `body` runs; then the server must end cleanly. */
export async function withDisk (options: ServerOptions, body: (disk: FailingDisk) => Promise<void>): Promise<void> {
  await withServer(options, async ({ socket, program }) => {
    const driver = await BlockDriver.connect({ socketPath: socket })
    try {
      await body({ driver, socket, program })
    } finally {
      await driver.close()
    }
  })
}

/** So many bytes by which each sector is known. */
export function pattern (offset: number, bytes: number, version = 1): Uint8Array {
  return sectorPattern(offset / 512, bytes / 512, version)
}

/** The guest is told that it failed: no other status, no end of the connection. */
export async function ioError (request: Promise<unknown>): Promise<void> {
  await assert.rejects(request, { name: 'BlockDriverError', code: 'ERR_BLOCK_IO', status: VIRTIO_BLK_S_IOERR })
}

/** The disk has this. */
export async function has (driver: BlockDriver, offset: number, expected: Uint8Array, what: string): Promise<void> {
  assert.ok(Buffer.compare(await driver.read(offset, expected.length), expected) === 0, what)
}
