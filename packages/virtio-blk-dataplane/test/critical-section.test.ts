// What a pause is for: between it and the resume the image is the caller's, whatever the guest does.
import assert from 'node:assert/strict'
import { copyFileSync, readFileSync, truncateSync } from 'node:fs'
import { test } from 'uvu'
import { DataPlane, SECTOR_BYTES } from '../src/index.ts'
import { Guest } from './support/guest.ts'
import { Scratch, sectorPattern } from './support/image.ts'
import { Load } from './support/load.ts'

const ROUNDS = 1000
const SLOTS = 16
const SLOT_SECTORS = 8
const SECTORS = 2 * SLOTS * SLOT_SECTORS

const scratch = new Scratch()
process.on('exit', () => scratch.remove())

/** The place of a slot has the pattern of one version, from its first word to its last: no write is seen half-done. */
function assertWhole (image: Uint8Array, slot: number): void {
  const at = slot * SLOT_SECTORS * SECTOR_BYTES
  const words = new Uint32Array(image.buffer, image.byteOffset + at, SLOT_SECTORS * SECTOR_BYTES / 4)
  const base = new Uint32Array(sectorPattern(slot * SLOT_SECTORS, SLOT_SECTORS).buffer)
  const version = (words[0]! ^ base[0]!) >>> 0
  assert.ok(words.every((word, index) => (word ^ base[index]!) >>> 0 === version), `slot ${slot} of the snapshot is torn`)
}

test(`${ROUNDS} pauses under load, each with a snapshot or a resize: nothing is lost, doubled or half-done`, async () => {
  const path = scratch.image('disk.img', SECTORS)
  const snapshot = scratch.file('snapshot.img', 0)
  const plane = DataPlane.create({ path })
  const guest = new Guest({ memoryBytes: 16 << 20 })
  try {
    await plane.start([guest.setup])
    const load = new Load(guest, SLOTS)
    for (let round = 0; round < ROUNDS; round++) {
      await plane.pause({ timeout: 60_000 })
      if (round % 2 === 0) {
        copyFileSync(path, snapshot)
        const image = readFileSync(snapshot)
        for (let slot = 0; slot < SLOTS; slot++) assertWhole(image, slot)
      } else {
        // The sectors behind the slots come and go; what the slots have stays.
        truncateSync(path, (round % 4 === 1 ? SECTORS / 2 : SECTORS) * SECTOR_BYTES)
        await plane.resize()
        assert.equal(plane.capacity, readFileSync(path).length)
      }
      plane.resume()
      if (round % 3 !== 0) await load.advance()
    }
    await load.stop()
    assert.ok(load.answered >= ROUNDS / 2, `${load.answered} requests meanwhile`)
    assert.equal(plane.statistics(0).requests, load.answered)
    assert.equal(plane.statistics(0).errors, 0)
  } finally {
    await plane.close()
    guest.close()
  }
})

test.run()
