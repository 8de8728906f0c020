import assert from 'node:assert/strict'
import { closeSync, constants, openSync } from 'node:fs'
import { test } from 'uvu'
import { ftruncate, memfdCreate } from '../../packages/libc/src/index.ts'
import { encodeMemoryTable, FrontEndRequest } from '../../packages/vhost-user/src/index.ts'
import { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../packages/virtio-blk/src/index.ts'
import { VIRTQ_DESC_F_WRITE } from '../../packages/vring/src/index.ts'
import { footprint, holdsAgain } from '../support/footprint.ts'
import { hostile, sectorPattern } from '../support/hostile.ts'
import { HIGH, inCase, MAIN, NO_STATUS, NOWHERE, USER } from '../support/hostile-guest.ts'

const define = hostile()

const FILE_BYTES = 0x4000
const good = { guestAddress: NOWHERE, userAddress: USER + NOWHERE, size: FILE_BYTES, offset: 0 }
const MAX = Number.MAX_SAFE_INTEGER

const wrong: Readonly<Record<string, Partial<typeof good>>> = {
  'no bytes': { size: 0 },
  'a byte past the end of its file': { size: FILE_BYTES + 1 },
  'a page past the end of its file': { size: FILE_BYTES + 4096 },
  'an offset that moves it past the end': { offset: 4096 },
  'an offset behind the file': { offset: 1 << 30 },
  'the largest size': { size: MAX },
  'the largest offset': { offset: MAX },
  'offset plus size beyond all numbers': { offset: MAX - 100, size: 4096 },
  'a guest address plus size beyond all numbers': { guestAddress: MAX - 100 },
  'a user address plus size beyond all numbers': { userAddress: MAX - 100 },
  'guest addresses of another region': { guestAddress: MAIN + 4096 },
  'guest addresses that reach into another region': { guestAddress: HIGH - 4096 },
  'user addresses of another region': { userAddress: USER + MAIN }
}

function memoryFile (bytes: number): number {
  const fd = memfdCreate('region')
  ftruncate(fd, bytes)
  return fd
}

define('a region that cannot be is refused, alone or in a table, before anything is mapped: the ring runs on in what it has', async ({ connect, program }) => {
  const { front, queue, regions } = await connect()
  const fd = memoryFile(FILE_BYTES)
  const held = footprint(program.pid)
  for (const [title, part] of Object.entries(wrong)) {
    await inCase(title, async () => {
      const region = { ...good, ...part, fd }
      await assert.rejects(front.addMemReg(region), { code: 'ERR_VHOST_USER_REFUSED' })
      await assert.rejects(front.setMemTable([...regions, region]), { code: 'ERR_VHOST_USER_REFUSED' })
    })
  }
  await assert.rejects(front.tell(FrontEndRequest.SET_MEM_TABLE, { payload: encodeMemoryTable([good]).fill(255, 8), fds: [fd] }),
    { code: 'ERR_VHOST_USER_REFUSED' }, 'all numbers beyond 2^53')
  assert.equal((await queue.getId()).written, 21)
  await holdsAgain(program.pid, held)
  closeSync(fd)
})

define('a file that was cut before it is passed is refused: to touch it would end the server', async ({ connect }) => {
  const { front, queue } = await connect()
  const fd = memoryFile(FILE_BYTES)
  ftruncate(fd, 4096)
  await assert.rejects(front.addMemReg({ ...good, fd }), { code: 'ERR_VHOST_USER_REFUSED' })
  ftruncate(fd, 0)
  await assert.rejects(front.addMemReg({ ...good, size: 1, fd }), { code: 'ERR_VHOST_USER_REFUSED' })
  closeSync(fd)
  assert.equal((await queue.getId()).written, 21)
})

define('a file that is cut after it was passed: data in what is gone is an I/O error, and the ring runs on', async ({ connect, frozen, sectors }) => {
  const guest = await connect()
  const { front, queue, memory } = guest
  const fd = memoryFile(FILE_BYTES)
  await front.addMemReg({ ...good, fd })
  const [before, bytes] = [sectors(0, 16), sectorPattern(100, 8, 5)]
  ftruncate(fd, 4096)
  // What is there in part, and what is gone.
  for (const [address, length] of [[NOWHERE, 8192], [NOWHERE + 4096, 512], [NOWHERE + 8192, 8192]] as const) {
    const data = { address, length }
    assert.deepEqual(await queue.request(VIRTIO_BLK_T_IN, 0, { writable: [data] }), { status: VIRTIO_BLK_S_IOERR, written: 1 }, `read to ${address}`)
    assert.deepEqual(await queue.request(VIRTIO_BLK_T_OUT, 200, { readable: [data] }), { status: VIRTIO_BLK_S_IOERR, written: 1 }, `write from ${address}`)
  }
  // What is taken in together with such a request is done, whatever its place.
  const places = [guest.place(bytes), NOWHERE + 4096, guest.filled(4096), NOWHERE + 4096, guest.filled(4096)]
  const given = queue.collect().length
  const statuses = places.map(() => guest.filled(1, NO_STATUS))
  await frozen(() => {
    for (const [index, address] of places.entries()) {
      const isWrite = index < 2
      queue.offer([
        { address: guest.header(isWrite ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, isWrite ? 100 + index * 8 : 0), length: 16 },
        { address, length: 4096, flags: isWrite ? 0 : VIRTQ_DESC_F_WRITE },
        { address: statuses[index]!, length: 1, flags: VIRTQ_DESC_F_WRITE }
      ], index * 3)
    }
    queue.kick.signal()
  })
  await queue.answers(given + places.length)
  assert.deepEqual(statuses.map((status) => memory.getUint8(status)), places.map((address) => address < NOWHERE ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR))
  assert.deepEqual(sectors(100, 8), bytes)
  for (const place of [places[2]!, places[4]!]) assert.deepEqual(memory.read(place, 4096), before.subarray(0, 4096))
  assert.equal((await queue.getId()).written, 21)
  closeSync(fd)
})

define('what is no memory is refused: a directory, an eventfd, a device, more than the address space', async ({ connect, image }) => {
  const { front, queue } = await connect()
  const vast = memoryFile(2 ** 51)
  const folder = openSync('/', constants.O_RDONLY)
  const path = openSync(image, 0o10000000)
  const zeroes = openSync('/dev/zero', constants.O_RDWR)
  for (const [title, region] of Object.entries({
    'a directory': { ...good, fd: folder },
    'a path': { ...good, fd: path },
    'an eventfd': { ...good, fd: queue.kick.fd },
    'zeroes, whose last page is not there': { ...good, offset: 4096, fd: zeroes },
    'more than the address space': { ...good, size: 2 ** 51, fd: vast }
  })) {
    await inCase(title, () => assert.rejects(front.addMemReg(region), { code: 'ERR_VHOST_USER_REFUSED' }))
  }
  for (const fd of [vast, folder, path, zeroes]) closeSync(fd)
  assert.equal((await queue.getId()).written, 21)
})

define('sizes and offsets that are no whole pages are mapped, and used to the last byte', async ({ connect }) => {
  const { front, queue, memory } = await connect()
  const fd = memoryFile(FILE_BYTES)
  await front.addMemReg({ ...good, size: 100, offset: 4000, fd })
  const [header, , status] = queue.goodChain()
  queue.offer([header, { address: NOWHERE + 80, length: 20, flags: 2 }, status])
  queue.kick.signal()
  assert.deepEqual(await queue.answers(1), [{ id: 0, length: 21 }])
  assert.equal(memory.getUint8(status.address), 0)
  queue.offer([header, { address: NOWHERE + 81, length: 20, flags: 2 }, status])
  queue.kick.signal()
  await queue.isBroken(1)
  closeSync(fd)
})

define('as many regions as there may be, and one more', async ({ connect }) => {
  const { front, queue, regions } = await connect()
  const fd = memoryFile(4096)
  const most = await front.getMaxMemSlots()
  const region = (index: number) => ({ guestAddress: NOWHERE + index * 8192, size: 4096, fd })
  // Each one stops the ring: not while it runs.
  await front.getVringBase(0)
  for (let index = regions.length; index < most; index++) await front.addMemReg(region(index))
  await assert.rejects(front.addMemReg(region(most)), { code: 'ERR_VHOST_USER_REFUSED' })
  await front.setVringKick(0, queue.kick.fd)
  assert.equal((await queue.getId()).written, 21)
  closeSync(fd)
}, ['split'])

test.run()
