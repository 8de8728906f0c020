import { DataPlaneError } from './errors.ts'
import type { Medium } from './medium.ts'
import type { DiskControl, DiskFacts } from './own-disk.ts'

/** Before the disk was opened. */
const UNKNOWN: DiskFacts = { capacity: 0, blockSize: 512, readOnly: true, flushes: false, discards: false }

/** A disk of the user's own as what a data plane keeps its guest's data on. */
export class OwnMedium implements Medium {
  readonly fd = -1
  readonly bufferedFd = undefined
  readonly alignment = { memory: 1, offset: 1 }
  readonly #disk: DiskControl
  readonly #forcedReadOnly: boolean
  #facts = UNKNOWN

  /** @param forcedReadOnly read-only, whatever the disk says */
  constructor (disk: DiskControl, forcedReadOnly: boolean) {
    this.#disk = disk
    this.#forcedReadOnly = forcedReadOnly
  }

  get readOnly (): boolean {
    return this.#forcedReadOnly || this.#facts.readOnly
  }

  get blockSize (): number {
    return this.#facts.blockSize
  }

  get physicalBlockSize (): number {
    return this.#facts.blockSize
  }

  get size (): number {
    return this.#facts.capacity
  }

  get flushes (): boolean {
    return this.#facts.flushes
  }

  get discards (): boolean {
    return this.#facts.discards
  }

  /** Has the disk opened. @throws DataPlaneError ERR_DISK */
  async open (): Promise<void> {
    this.#facts = await this.#disk.open()
  }

  /** Takes over what is known of a disk that is open. */
  take (facts: DiskFacts): this {
    this.#facts = facts
    return this
  }

  // Who made the disk keeps others from it.
  beginUse (): void {}
  endUse (): void {}

  /** The capacity alone may change. */
  async refresh (): Promise<number> {
    const { capacity } = await this.#disk.inspect()
    this.#facts = { ...this.#facts, capacity }
    return capacity
  }

  checkResize (): void {
    throw new DataPlaneError('ERR_OPTION', 'a disk of one\'s own has the capacity that it says: change that, then call resize without a size')
  }

  resize (): void {
    this.checkResize()
  }

  sync (): Promise<void> {
    return this.#disk.flush()
  }

  close (): Promise<void> {
    return this.#disk.close()
  }
}
