import { deepEqual, equal, ok } from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DataPlane, type Disk, type DiskModule, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD } from '@node-vmm/virtio-blk-dataplane'
import { test } from 'uvu'
import { Guest } from '../../virtio-blk-dataplane/test/support/guest.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { type DiskSpec, open } from '../src/spec.ts'
import { pattern } from './support/model.ts'

const MODULE = new URL('../src/index.ts', import.meta.url)
const BYTES = 1 << 20

test.after.each(cleanUp)

function stack (folder: string): DiskSpec {
  return {
    type: 'throttle',
    ops: 1e6,
    disk: { type: 'overlay', base: { type: 'raw', path: join(folder, 'base.img') }, file: join(folder, 'vm.ovl'), clusterSize: 4096 }
  }
}

async function withGuest (disk: Disk | DiskModule, body: (guest: Guest) => Promise<void>): Promise<void> {
  const plane = await DataPlane.open({ disk })
  const guest = new Guest()
  try {
    await plane.start([guest.setup])
    await body(guest)
    await plane.stop()
  } finally {
    await plane.close()
    guest.close()
  }
}

for (const [place, made] of [
  ['on the data-plane thread', async (spec: DiskSpec) => ({ module: MODULE, options: spec })],
  ['on the calling thread', open]
] as const) {
  test(`a guest's own view of a shared base, kept from one start to the next (${place})`, async () => {
    const folder = temporaryFolder()
    const model = pattern(BYTES, 1)
    const base = Buffer.from(model)
    writeFileSync(join(folder, 'base.img'), base)
    await withGuest(await made(stack(folder)), async (guest) => {
      await Promise.all(Array.from({ length: 20 }, async (_, index) => {
        const bytes = pattern(1536, index)
        const sector = 7 + index * 90
        bytes.copy(model, sector * 512)
        equal((await guest.write(sector, bytes)).status, VIRTIO_BLK_S_OK)
      }))
      deepEqual(Buffer.from((await guest.read(0, BYTES)).data), model)
      equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
    })
    await withGuest(await made(stack(folder)), async (guest) => {
      deepEqual(Buffer.from((await guest.read(0, BYTES)).data), model)
      const range = Buffer.alloc(16)
      range.writeBigUInt64LE(0n)
      range.writeUInt32LE(64, 8)
      const address = guest.allocate(16)
      guest.memory.write(address, range)
      equal((await guest.request(VIRTIO_BLK_T_DISCARD, 0, { readable: [{ address, length: 16 }] })).status, VIRTIO_BLK_S_OK)
      model.fill(0, 0, 64 * 512)
      deepEqual(Buffer.from((await guest.read(0, BYTES)).data), model)
    })
    deepEqual(readFileSync(join(folder, 'base.img')), base)
  })
}

test('an encrypted disk is served, and its file has nothing of what the guest wrote', async () => {
  const folder = temporaryFolder()
  const [path, keyFile] = [join(folder, 'disk.img'), join(folder, 'key')]
  writeFileSync(path, new Uint8Array(BYTES))
  writeFileSync(keyFile, 'secret')
  const disk: DiskModule<DiskSpec> = { module: MODULE, options: { type: 'encrypted', keyFile, format: true, disk: { type: 'raw', path } } }
  const bytes = Buffer.alloc(8192, 'what the guest wrote ')
  await withGuest(disk, async (guest) => equal((await guest.write(8, bytes)).status, VIRTIO_BLK_S_OK))
  await withGuest(disk, async (guest) => deepEqual(Buffer.from((await guest.read(8, 8192)).data), bytes))
  ok(!readFileSync(path).includes('guest'))
})

test('a guest is told of the faults that were planned, and served on', async () => {
  const spec: DiskSpec = {
    type: 'faulty',
    seed: 1,
    disk: { type: 'ram', capacity: BYTES },
    rules: [
      { fault: { kind: 'error', code: 'ENOTSUP' }, operation: 'flush', at: 0 },
      { fault: { kind: 'short' }, operation: 'write', at: 0 },
      { fault: { kind: 'late', milliseconds: 5 } }
    ]
  }
  await withGuest(await open(spec), async (guest) => {
    equal((await guest.flush()).status, VIRTIO_BLK_S_UNSUPP)
    equal((await guest.write(0, pattern(1024, 1))).status, VIRTIO_BLK_S_IOERR)
    deepEqual(Buffer.from((await guest.read(0, 1024)).data), Buffer.concat([pattern(1024, 1).subarray(0, 512), Buffer.alloc(512)]))
    equal((await guest.flush()).status, VIRTIO_BLK_S_OK)
  })
})

test.run()
