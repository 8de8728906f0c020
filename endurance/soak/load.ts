// A load that knows what the disk has: each slot has a place of its own there, and looks after it, whoever serves it.
import {
  VIRTIO_BLK_RANGE_BYTES, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES
} from '@node-vmm/virtio-blk-driver'
import { content, SECTOR_BYTES } from '../power-cut/sectors.ts'
import { GuestGone, type SoakGuest } from './guest.ts'

/** Slots of a disk. */
export const SLOTS = 64
const SLOT_SECTORS = 32
const SLOT_BYTES = SLOT_SECTORS * SECTOR_BYTES
/** Bytes of the disk that slots have; behind them it may end anywhere. */
export const SLOTS_BYTES = SLOTS * SLOT_BYTES
/** Bytes of a guest's memory for the slots: data, and behind it a range. */
export const DATA_BYTES = 2 * SLOTS_BYTES

/** What a disk has in its slots: kept over all the guests that it has one after the other. */
export class Ledger {
  /** The write that each slot has; 0 for zeroes, undefined where a guest went away in the middle. */
  readonly #writes: (number | undefined)[] = new Array(SLOTS).fill(0)
  readonly #random: () => number
  #write = 0
  /** Reads that were compared. */
  verified = 0

  constructor (random: () => number) {
    this.#random = random
  }

  /** Reads every slot. */
  async verify (guest: SoakGuest): Promise<void> {
    await Promise.all(this.#writes.map((_, slot) => this.#read(guest, slot)))
  }

  /** Loads the disk until it is stopped, or the guest is gone. @returns what stops it, and waits for its end */
  start (guest: SoakGuest, slots: number): () => Promise<void> {
    let stopped = false
    const play = async (slot: number): Promise<void> => {
      try {
        while (!stopped) await this.#step(guest, slot)
      } catch (error) {
        if (!(error instanceof GuestGone)) throw error
      }
    }
    const ended = Promise.all(Array.from({ length: slots }, (_, slot) => play(slot)))
    ended.catch(() => {})
    return async () => {
      stopped = true
      await ended
    }
  }

  async #step (guest: SoakGuest, slot: number): Promise<void> {
    const what = this.#random()
    if (what < 0.4) return await this.#read(guest, slot)
    if (what < 0.8) return await this.#overwrite(guest, slot)
    if (what < 0.9) return await this.#ask(guest, slot, VIRTIO_BLK_T_FLUSH, 0, 0)
    await this.#clear(guest, slot, what < 0.95 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES)
  }

  async #read (guest: SoakGuest, slot: number): Promise<void> {
    const write = this.#writes[slot]
    await this.#ask(guest, slot, VIRTIO_BLK_T_IN, slot * SLOT_SECTORS, SLOT_BYTES)
    if (write === undefined) return
    const expected = write === 0 ? new Uint8Array(SLOT_BYTES) : content(write, slot * SLOT_SECTORS, SLOT_SECTORS)
    if (Buffer.compare(guest.data(slot * SLOT_BYTES, SLOT_BYTES), expected) !== 0) throw new Error(`slot ${slot} has not what write ${write} put there`)
    this.verified++
  }

  async #overwrite (guest: SoakGuest, slot: number): Promise<void> {
    const write = ++this.#write
    guest.data(slot * SLOT_BYTES, SLOT_BYTES).set(content(write, slot * SLOT_SECTORS, SLOT_SECTORS))
    await this.#change(guest, slot, write, VIRTIO_BLK_T_OUT, slot * SLOT_SECTORS, SLOT_BYTES)
  }

  async #clear (guest: SoakGuest, slot: number, type: number): Promise<void> {
    const range = Uint32Array.of(slot * SLOT_SECTORS, 0, SLOT_SECTORS, 0)
    guest.data(slot * SLOT_BYTES, VIRTIO_BLK_RANGE_BYTES).set(new Uint8Array(range.buffer))
    await this.#change(guest, slot, 0, type, 0, VIRTIO_BLK_RANGE_BYTES)
  }

  async #change (guest: SoakGuest, slot: number, write: number, type: number, sector: number, bytes: number): Promise<void> {
    this.#writes[slot] = undefined
    await this.#ask(guest, slot, type, sector, bytes)
    this.#writes[slot] = write
  }

  async #ask (guest: SoakGuest, slot: number, type: number, sector: number, bytes: number): Promise<void> {
    const status = await guest.request(slot % guest.queues, type, sector, guest.dataAddress + slot * SLOT_BYTES, bytes)
    if (status !== VIRTIO_BLK_S_OK) throw new Error(`a request of type ${type} in slot ${slot} has status ${status}`)
  }
}
