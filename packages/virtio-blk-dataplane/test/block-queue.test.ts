import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { EventNotifier } from '@node-vmm/event-poll'
import { type Engine, openEngine } from '@node-vmm/ioq'
import { VolatileDisk } from '@node-vmm/ioq/testing'
import { SplitVring, VIRTQ_DESC_F_WRITE, type VringFault } from '@node-vmm/vring'
import { suite } from 'uvu'
import { BlockQueue, type BlockQueueInit } from '../src/block-queue.ts'
import { monotonicClock } from '../src/clock.ts'
import { Gate } from '../src/gate.ts'
import type { ServedDisk } from '../src/disk.ts'
import { Image } from '../src/image.ts'
import { StatisticsTable } from '../src/statistics.ts'
import { allocateTraceRing, TraceReader, TraceWriter } from '../src/trace-ring.ts'
import { decodeTrace } from '../src/trace.ts'
import {
  DataPlane, SECTOR_BYTES, VIRTIO_BLK_F_RO, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
} from '../src/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { ENGINES, scratchFor } from './support/engines.ts'
import { Guest } from './support/guest.ts'
import { sectorPattern } from './support/image.ts'
import { endAll, ends, scratch, SERIAL, serve, testRequests, unevenly } from './support/requests.ts'

for (const engine of ENGINES) for (const eventIdx of [true, false]) testRequests({ engine, eventIdx })

{
  const test = suite('one data plane a test')
  test.after.each(endAll)

  for (const acknowledged of [true, false]) {
    test(`a read-only disk ${acknowledged ? 'that the guest knows to be so' : 'whose guest did not look'}: writes fail, all else works`, async () => {
      const path = scratch.image('read-only.img', 64)
      const guest = new Guest({ features: acknowledged ? 1n << BigInt(VIRTIO_BLK_F_RO) : 0n })
      await serve([guest], { path, readOnly: true })
      assert.deepEqual(await guest.write(3, sectorPattern(3, 1, 9)), { status: VIRTIO_BLK_S_IOERR, written: 1 })
      assert.deepEqual(await guest.request(VIRTIO_BLK_T_OUT, 3), { status: VIRTIO_BLK_S_IOERR, written: 1 })
      assert.deepEqual(await guest.flush(), { status: VIRTIO_BLK_S_OK, written: 1 })
      assert.equal(Buffer.from((await guest.getId()).id).toString(), SERIAL)
      assert.deepEqual((await guest.read(3, 512)).data, sectorPattern(3, 1))
      assert.deepEqual(scratch.sectors(path, 0, 64), sectorPattern(0, 64))
      })
  }

  test('a short serial number is padded with zeros', async () => {
    const guest = new Guest()
    await serve([guest], { path: scratch.image('serial.img', 8), serial: 'é1' })
    const { id, written } = await guest.getId(20)
    assert.deepEqual(Buffer.from(id), Buffer.concat([Buffer.from('é1'), Buffer.alloc(17)]))
    assert.equal(written, 21)
  })

  for (const [size, eventIdx] of [[256, true], [256, false], [1024, true]] as const) {
    test(`a ring of ${size} full of writes and reads, ${eventIdx ? 'with' : 'without'} EVENT_IDX`, async () => {
      const path = scratch.image('full.img', 8192)
      const guest = new Guest({ size, eventIdx, indirect: true, memoryBytes: 32 << 20 })
      const plane = await serve([guest], { path })
      const sectors = Array.from({ length: size }, (_, index) => index * 7 % size * 8)
      const writes = await Promise.all(sectors.map((sector) => guest.write(sector, sectorPattern(sector, 8, 1))))
      assert.ok(writes.every(({ status, written }) => status === VIRTIO_BLK_S_OK && written === 1))
      const expected = sectorPattern(0, 8192)
      for (const sector of sectors) expected.set(sectorPattern(sector, 8, 1), sector * SECTOR_BYTES)
      assert.ok(Buffer.compare(readFileSync(path), expected) === 0)
      const reads = await Promise.all(sectors.map(async (sector) => ({ sector, ...await guest.read(sector, 4096) })))
      for (const { sector, data } of reads) assert.deepEqual(data, sectorPattern(sector, 8, 1))
      assert.equal(plane.statistics(0).requests, 2 * size)
      })
  }

  test('a queue of one entry is served, by an indirect chain', async () => {
    const guest = new Guest({ size: 1, indirect: true })
    await serve([guest], { path: scratch.image('one.img', 64) })
    for (let sector = 0; sector < 10; sector++) assert.deepEqual((await guest.read(sector, 512)).data, sectorPattern(sector, 1))
  })

  test('a guest that polls is not interrupted, with and without EVENT_IDX', async () => {
    for (const eventIdx of [true, false]) {
      const guest = new Guest({ eventIdx })
      const plane = await serve([guest], { path: scratch.image('polls.img', 64) })
      await guest.flush()
      const { interrupts } = plane.statistics(0)
      guest.ring.disableInterrupts()
      const flushes = Promise.all([guest.flush(), guest.flush()])
      while (guest.ring.inFlight > 0) {
        guest.take()
        await new Promise((resolve) => setImmediate(resolve))
      }
      await flushes
      assert.equal(plane.statistics(0).interrupts, interrupts)
      await endAll()
    }
  })

  test('a guest without a call descriptor polls', async () => {
    const guest = new Guest()
    const plane = DataPlane.create({ path: scratch.image('no-call.img', 64) })
    await plane.start([{ ...guest.setup, callFd: undefined, errorFd: undefined }])
    const answer = guest.read(5, 512)
    while (guest.ring.inFlight > 0) {
      guest.take()
      await new Promise((resolve) => setImmediate(resolve))
    }
    assert.deepEqual((await answer).data, sectorPattern(5, 1))
    assert.equal(plane.statistics(0).interrupts, 0)
    await plane.close()
    guest.close()
  })

  /** What breaks a ring: chains as a driver must not make them. */
  const breakers: readonly (readonly [title: string, chain: (guest: Guest) => { address: number, length: number, flags?: number }[], code: string])[] = [
    ['without a status byte', (guest) => [{ address: guest.header(VIRTIO_BLK_T_OUT, 0), length: 528 }], 'device-refused'],
    ['with a header of 15 bytes', (guest) => [
      { address: guest.header(VIRTIO_BLK_T_IN, 0), length: 15 },
      { address: guest.allocate(513), length: 513, flags: VIRTQ_DESC_F_WRITE }
    ], 'device-refused'],
    ['with nothing to read', (guest) => [{ address: guest.allocate(513), length: 513, flags: VIRTQ_DESC_F_WRITE }], 'device-refused'],
    ['outside guest memory', (guest) => [
      { address: guest.header(VIRTIO_BLK_T_IN, 0), length: 16 },
      { address: 0x7fff0000, length: 513, flags: VIRTQ_DESC_F_WRITE }
    ], 'address-unmapped']
  ]
  test('a malformed request breaks its ring, once; the other queue goes on, and after a reset so does this one', async () => {
    const [guest, other] = [new Guest(), new Guest()]
    const faults: [number, VringFault][] = []
    const plane = await serve([guest, other], { path: scratch.image('broken.img', 64), onFault: (queue, fault) => faults.push([queue, fault]) })
    for (const [title, chain, code] of breakers) {
      guest.raw.available(guest.raw.chain(chain(guest)))
      guest.kick.notify()
      await eventually('the fault is told', () => faults.length > 0)
      assert.deepEqual(faults.map(([queue, fault]) => [queue, fault.code, fault.head]), [[0, code, 0]], title)
      assert.equal(guest.error.clear(), true, title)
      // Kicks and valid chains change nothing any more.
      for (let kick = 0; kick < 3; kick++) {
        guest.raw.available(guest.raw.chain([
          { address: guest.header(VIRTIO_BLK_T_FLUSH, 0), length: 16 },
          { address: guest.allocate(1), length: 1, flags: VIRTQ_DESC_F_WRITE }
        ], 8))
        guest.kick.notify()
        assert.deepEqual((await other.read(9, 512)).data, sectorPattern(9, 1))
      }
      await plane.drain({ timeout: 60_000 })
      assert.equal(faults.splice(0).length, 1, title)
      assert.equal(guest.error.clear(), false, title)
      assert.equal(other.error.clear(), false, title)
      assert.equal(guest.raw.getUsedIndex(), 0, title)

      await plane.stopQueue(0)
      guest.resetRing()
      await plane.startQueue(0, guest.setup)
      assert.deepEqual((await guest.read(11, 512)).data, sectorPattern(11, 1), title)
      assert.equal(faults.length, 0, title)
      await plane.stopQueue(0)
      guest.resetRing()
      await plane.startQueue(0, guest.setup)
    }
    assert.equal(plane.statistics(0).requests, breakers.length)
  })

  test('what is in flight when a ring breaks is completed on the disk, and shown to nobody', async () => {
    const path = scratch.image('broken-in-flight.img', 64)
    const guest = new Guest()
    const faults: VringFault[] = []
    const plane = await serve([guest], { path, onFault: (_, fault) => faults.push(fault) })
    const bytes = sectorPattern(7, 1, 3)
    const data = guest.allocate(512)
    guest.memory.write(data, bytes)
    guest.raw.chain([
      { address: guest.header(VIRTIO_BLK_T_OUT, 7), length: 16 },
      { address: data, length: 512 },
      { address: guest.allocate(1), length: 1, flags: VIRTQ_DESC_F_WRITE }
    ])
    guest.raw.descriptor(5, { address: data, length: 4 })
    guest.raw.available(0, 5)
    guest.kick.notify()
    await eventually('the fault is told', () => faults.length > 0)
    await plane.drain({ timeout: 60_000 })
    assert.deepEqual(scratch.sectors(path, 7, 1), bytes)
    assert.equal(guest.raw.getUsedIndex(), 0)
    assert.deepEqual((await plane.stop()).get(0), { availableIndex: 2, usedIndex: 0 })
  })

  function hereDisk (image: Image): ServedDisk {
    return {
      fd: image.fd,
      bufferedFd: undefined,
      writeTurns: undefined,
      map: undefined,
      alignment: image.alignment,
      readOnly: false,
      id: new Uint8Array(20),
      discardSegments: 1,
      sectors: 8,
      writeThrough: false
    }
  }

  /** A queue on this thread, of a guest whose chains the test makes. */
  function queueHere (guest: Guest, init: Partial<BlockQueueInit>): { queue: BlockQueue, gate: Gate } {
    const image = Image.open({ path: scratch.image('here.img', 8) })
    const gate = Gate.create(1, () => {})
    const queue = new BlockQueue({
      index: 0,
      memory: guest.memory,
      vring: new SplitVring(guest.memory, { ...guest.layout, features: guest.setup.features }),
      disk: hereDisk(image),
      engine: 'sync',
      gate,
      counters: new StatisticsTable(1).counters(0),
      call: undefined,
      onFault: ({ message }) => assert.fail(message),
      trace: undefined,
      log: undefined,
      alwaysWriteThrough: false,
      ...init
    })
    ends.push(async () => {
      queue.ioq.close()
      image.close()
      guest.close()
    })
    return { queue, gate }
  }

  test('a guest that sends a request again before it sees the answer does not keep the thread to itself', () => {
    const guest = new Guest({ size: 16 })
    guest.raw.chain([
      { address: guest.header(VIRTIO_BLK_T_GET_ID, 0), length: 16 },
      { address: guest.allocate(21), length: 21, flags: VIRTQ_DESC_F_WRITE }
    ])
    let served = 0
    class Answered extends SplitVring {
      override push (head: number, written: number): void {
        super.push(head, written)
        served++
        if (served < 1000) guest.raw.available(0)
      }
    }
    const { queue } = queueHere(guest, { vring: new Answered(guest.memory, { ...guest.layout, features: guest.setup.features }) })
    guest.raw.available(0)
    assert.equal(queue.serve(), true)
    assert.ok(served < 1000, `${served} requests in one turn`)
    assert.equal(guest.raw.getUsedIndex(), served)
    // What is left over keeps the thread from sleeping, turn by turn: nothing is forgotten.
    assert.equal(queue.isBusy, true)
    for (let turns = 1; !queue.arm() && turns < 1000; turns++) assert.equal(guest.raw.getUsedIndex(), served)
    assert.equal(queue.isBusy, false)
    assert.deepEqual([served, guest.raw.getUsedIndex()], [1000, 1000])
  })

  for (const eventIdx of [true, false]) {
    test(`a guest is asked to kick, and not to, ${eventIdx ? 'with' : 'without'} EVENT_IDX: not once a queue stops`, () => {
      const guest = new Guest({ eventIdx })
      const { queue } = queueHere(guest, {})
      const isAsked = (): boolean => eventIdx ? guest.raw.getAvailableEvent() === 0 : guest.raw.getUsedFlags() === 0
      assert.equal(queue.arm(), true)
      assert.equal(isAsked(), true)
      queue.disarm()
      assert.equal(isAsked(), false)
      assert.equal(queue.arm(), true)
      assert.equal(isAsked(), true)
      queue.stopping = true
      queue.disarm()
      assert.equal(isAsked(), true)
    })
  }

  test('a request made available while a batch begins is traced as taken off the ring after that', () => {
    const guest = new Guest({ size: 16 })
    guest.raw.chain([
      { address: guest.header(VIRTIO_BLK_T_GET_ID, 0), length: 16 },
      { address: guest.allocate(21), length: 21, flags: VIRTQ_DESC_F_WRITE }
    ])
    const available = new Float64Array(1)
    class JustInTime extends SplitVring {
      override prefetch (): void {
        monotonicClock()(available, 0)
        guest.raw.available(0)
      }
    }
    const state = allocateTraceRing(16)
    const { queue } = queueHere(guest, {
      vring: new JustInTime(guest.memory, { ...guest.layout, features: guest.setup.features }),
      trace: new TraceWriter(state)
    })
    queue.serve()
    const [taken] = decodeTrace(new TraceReader(state).take()!)
    assert.equal(taken!.event.name, 'virtio_blk_data_plane_process_request')
    assert.ok(taken!.microseconds >= available[0]!, `available at ${available[0]}, taken at ${taken!.microseconds}`)
  })

  /** 32 requests that are made available, and how many of them the guest is shown at once. */
  function thirtyTwo (): { guest: Guest, heads: readonly number[], sizes: Set<number>, Counted: typeof SplitVring } {
    const guest = new Guest({ size: 128 })
    const heads = Array.from({ length: 32 }, (_, index) => 3 * index)
    for (const head of heads) {
      guest.raw.chain([
        { address: guest.header(VIRTIO_BLK_T_IN, 0), length: 16 },
        { address: guest.allocate(513), length: 513, flags: VIRTQ_DESC_F_WRITE }
      ], head)
    }
    const sizes = new Set<number>()
    let pushed = 0
    class Counted extends SplitVring {
      override push (head: number, written: number): void {
        super.push(head, written)
        pushed++
      }

      override publish (): void {
        super.publish()
        sizes.add(pushed)
        pushed = 0
      }
    }
    return { guest, heads, sizes, Counted }
  }

  test('a look at the ring that finds more is no sleep: meanwhile other sizes of batches are tried', () => {
    const { guest, heads, sizes, Counted } = thirtyTwo()
    class Refilled extends Counted {
      override enableNotification (): 'empty' | 'more' {
        guest.raw.available(...heads)
        return super.enableNotification()
      }
    }
    const { queue } = queueHere(guest, { vring: new Refilled(guest.memory, { ...guest.layout, features: guest.setup.features }) })
    for (let turn = 0; turn < 400; turn++) assert.equal(queue.arm(), false)
    for (const size of [8, 11, 19, 25, 32]) assert.ok(sizes.has(size), `batches of ${[...sizes].join(', ')}`)
  })

  test('a guest whose requests come in two parts is shown both at once, now and then', () => {
    const { guest, heads, sizes, Counted } = thirtyTwo()
    let turns = 0
    let left = 0
    class TwoParts extends Counted {
      /** In one part at first: the queue is that deep. */
      override enableNotification (): 'empty' | 'more' {
        left = ++turns < 10 ? 32 : 19
        guest.raw.available(...heads.slice(0, left))
        return super.enableNotification()
      }

      /** When it has all of the first part back, in whichever batches. */
      override push (head: number, written: number): void {
        super.push(head, written)
        if (--left === 0 && turns >= 10) guest.raw.available(...heads.slice(19))
      }
    }
    const { queue } = queueHere(guest, { vring: new TwoParts(guest.memory, { ...guest.layout, features: guest.setup.features }) })
    for (let turn = 0; turn < 400; turn++) assert.equal(queue.arm(), false)
    for (const size of [19, 13, 32]) assert.ok(sizes.has(size), `batches of ${[...sizes].join(', ')}`)
  })

  test('what completes after it was given up does not touch the ring: also where others completed just before', async () => {
    const guest = new Guest()
    const held: (readonly [id: number, bytes: number])[] = []
    const completion = EventNotifier.create()
    const engine: Engine = {
      name: 'held',
      depth: 64,
      completionFd: completion.fd,
      systemCalls: 0,
      submit: (ids, from, count, table) => {
        for (const id of ids.subarray(from, from + count)) held.push([id, table.remaining[id]!])
        return count
      },
      reap: (sink) => {
        const one = held.shift()
        if (one !== undefined) sink(...one)
      },
      close: () => completion.close()
    }
    let pushed = 0
    class Counting extends SplitVring {
      override push (head: number, written: number): void {
        super.push(head, written)
        pushed++
      }
    }
    const { queue, gate } = queueHere(guest, { engine, vring: new Counting(guest.memory, { ...guest.layout, features: guest.setup.features }) })
    const [first] = [guest.read(0, 512), guest.read(1, 512)]
    queue.serve()
    assert.deepEqual([pushed, held.length], [1, 1])
    gate.giveUp()
    queue.ioq.reap()
    assert.deepEqual([pushed, held.length], [1, 0])
    guest.poll()
    assert.equal((await first).status, VIRTIO_BLK_S_OK)
  })

  for (const { name, disk, init, flush, survives } of [
    { name: 'written back, and not flushed: may be lost', disk: false, init: false, flush: false, survives: false },
    { name: 'written back, and flushed: is there', disk: false, init: false, flush: true, survives: true },
    { name: 'written through: is there', disk: true, init: false, flush: false, survives: true },
    { name: 'written for a driver without flushes: is there', disk: false, init: true, flush: false, survives: true }
  ]) {
    test(`a power cut after a write that was ${name}`, async () => {
      let kept = 0
      for (let seed = 0; seed < 8; seed++) {
        const path = scratch.image('power-cut.img', 8)
        const image = Image.open({ path })
        const power = new VolatileDisk(image.fd)
        const engine = power.attach(openEngine('sync', { fd: image.fd, depth: 64 }).engine)
        const guest = new Guest()
        const { queue } = queueHere(guest, { engine, alwaysWriteThrough: init, disk: { ...hereDisk(image), writeThrough: disk } })
        const done = guest.write(3, sectorPattern(3, 1, 7))
        queue.serve()
        guest.poll()
        assert.equal((await done).status, VIRTIO_BLK_S_OK)
        if (flush) {
          const flushed = guest.flush()
          queue.serve()
          guest.poll()
          assert.equal((await flushed).status, VIRTIO_BLK_S_OK)
        }
        power.powerCut(seed)
        if (Buffer.from(scratch.sectors(path, 3, 1)).equals(sectorPattern(3, 1, 7))) kept++
        await endAll()
        image.close()
      }
      assert.equal(kept === 8, survives, `${kept} of 8 survived`)
    })
  }

  test('whoever drains finds every request of a batch shown to the guest, those too that finish at once', async () => {
    const guest = new Guest()
    const call = EventNotifier.create()
    const { queue, gate } = queueHere(guest, { call })
    const seen: string[] = []
    call.notify = () => {
      assert.throws(() => gate.drainSync({ timeout: 0 }), { code: 'ERR_TIMEOUT' }, 'the batch is not over')
      seen.push(`used index ${guest.raw.getUsedIndex()}`)
      return true
    }
    const id = guest.getId()
    queue.serve()
    gate.drainSync({ timeout: 0 })
    guest.poll()
    const read = guest.read(0, 512)
    queue.serve()
    for (let turn = 0; turn < 100 && gate.inFlight[0] !== 0; turn++) queue.onCompletion()
    gate.drainSync({ timeout: 0 })
    assert.deepEqual(seen, ['used index 1', 'used index 2'])
    guest.poll()
    assert.equal((await id).written, 21)
    assert.deepEqual((await read).data, sectorPattern(0, 1))
    call.close()
  })

  for (const engine of ENGINES) {
    test(`O_DIRECT by ${engine}: buffers and segments that are not aligned`, async () => {
      const path = scratchFor(engine).image('direct.img', 4096)
      const guest = new Guest({ size: 128 })
      try {
        await DataPlane.create({ path, direct: true }).close()
      } catch (error) {
        console.log(`skipped: ${(error as Error).message}`)
        return guest.close()
      }
      await serve([guest], { path, engine, direct: true })
      for (const shift of [0, 4, 4095]) {
        for (const sectors of [1, 8, 64, 2100]) {
          await guest.withMemory(async () => {
            const length = sectors * SECTOR_BYTES
            const [source, target] = [guest.allocate(length + 4096) + shift, guest.allocate(length + 4096) + shift]
            const bytes = sectorPattern(9, sectors, shift)
            guest.memory.write(source, bytes)
            const title = `${sectors} sectors at + ${shift}`
            assert.deepEqual(await guest.request(VIRTIO_BLK_T_OUT, 9, { readable: [{ address: source, length }] }), { status: VIRTIO_BLK_S_OK, written: 1 }, title)
            assert.deepEqual(scratch.sectors(path, 8, sectors + 2), Uint8Array.from(Buffer.concat([sectorPattern(8, 1), bytes, sectorPattern(9 + sectors, 1)])), title)
            assert.deepEqual(await guest.request(VIRTIO_BLK_T_IN, 9, { writable: [{ address: target, length }] }), { status: VIRTIO_BLK_S_OK, written: length + 1 }, title)
            assert.deepEqual(guest.memory.read(target, length), bytes, title)
            const pieces = unevenly(target, length - 16, 23)
            const tail = guest.allocate(16)
            const answer = await guest.request(VIRTIO_BLK_T_IN, 9, { writable: [...pieces, { address: tail, length: 16 }] })
            assert.deepEqual(answer, { status: VIRTIO_BLK_S_OK, written: length + 1 }, title)
            assert.deepEqual(Buffer.concat([...pieces, { address: tail, length: 16 }].map((piece) => guest.memory.read(piece.address, piece.length))), Buffer.from(bytes), title)
            guest.memory.write(source, sectorPattern(9, sectors))
            assert.equal((await guest.request(VIRTIO_BLK_T_OUT, 9, { readable: [{ address: source, length }] })).status, VIRTIO_BLK_S_OK, title)
          })
        }
      }
      assert.deepEqual(scratch.sectors(path, 0, 4096), sectorPattern(0, 4096))
    })
  }

  test.run()
}
