import { F_RDLCK, F_WRLCK, setLock } from '@node-vmm/libc'
import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { type DiskFile, OpenFile } from './disk-file.ts'
import { DiskError } from './errors.ts'
import { ClusterMap, type ClusterState, clustersOf, damaged, dataStart, decodeHeader, encodeHeader, fileSize, type OverlayHeader, PAGE_BYTES } from './overlay-format.ts'

/** A part of a disk whose clusters have the same state. */
export interface Run {
  readonly state: ClusterState
  readonly offset: number
  readonly length: number
}

/** An open overlay without its base: what it has, and in which order it gets to the disk. It owns its file. */
export class OverlayFile {
  readonly path: string
  readonly file: DiskFile
  readonly map: ClusterMap
  #header: OverlayHeader
  #lastFlush: Promise<void> = Promise.resolve()
  #nextFlush: Promise<void> | undefined
  #failure: unknown

  /** @internal */
  constructor (path: string, file: DiskFile, header: OverlayHeader, map: ClusterMap) {
    this.path = path
    this.file = file
    this.#header = header
    this.map = map
  }

  /** Opens and locks an overlay. @throws DiskError ERR_OVERLAY, ERR_DISK_LOCKED; Node's error where the file cannot be opened */
  static async open (path: string, readOnly = false): Promise<OverlayFile> {
    const fd = openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR)
    try {
      if (!setLock(fd, { type: readOnly ? F_RDLCK : F_WRLCK, start: 0, length: 0 })) {
        throw new DiskError('ERR_DISK_LOCKED', `the overlay ${path} is in use. Stop who has it, or give each machine an overlay of its own.`)
      }
      return await OverlayFile.load(path, new OpenFile(fd), fstatSync(fd).size)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }

  /** @internal */
  static async load (path: string, file: DiskFile, size: number): Promise<OverlayFile> {
    const page = new Uint8Array(PAGE_BYTES)
    await file.read(0, [page])
    const header = decodeHeader(page, path)
    if (size < fileSize(header)) throw damaged(path, `it was cut to ${size} bytes, and needs ${fileSize(header)}`)
    return new OverlayFile(path, file, header, await ClusterMap.read(file, header, path))
  }

  get header (): OverlayHeader {
    return this.#header
  }

  /** Where a byte of the disk is in the file. */
  position (offset: number): number {
    return dataStart(this.#header) + offset
  }

  clusterAt (offset: number): number {
    return Math.floor(offset / this.#header.clusterSize)
  }

  startOf (cluster: number): number {
    return cluster * this.#header.clusterSize
  }

  /** Where a cluster ends, the last one at the end of the disk. */
  endOf (cluster: number): number {
    return Math.min((cluster + 1) * this.#header.clusterSize, this.#header.capacity)
  }

  /** The parts of a range, in order; each as long as its clusters have one kind. */
  * runs (offset: number, length: number, kind = (state: ClusterState): unknown => state): Generator<Run> {
    const end = offset + length
    while (offset < end) {
      let cluster = this.clusterAt(offset)
      const state = this.map.get(cluster)
      while (this.endOf(cluster) < end && kind(this.map.get(cluster + 1)) === kind(state)) cluster++
      const stop = Math.min(end, this.endOf(cluster))
      yield { state, offset, length: stop - offset }
      offset = stop
    }
  }

  setAll (first: number, last: number, state: ClusterState): void {
    for (let cluster = first; cluster <= last; cluster++) {
      if (this.map.get(cluster) !== state) this.map.set(cluster, state)
    }
  }

  /**
   * Makes durable what was written: the data first, then the map that says it is there. So a cluster that the map on the
   * disk calls present has its data there, whenever the process or the power ends.
   */
  flush (): Promise<void> {
    // Who comes while one is under way waits for the next, which all of them share: it begins after their writes.
    if (this.#nextFlush === undefined) {
      const next = this.#lastFlush.then(() => {
        this.#nextFlush = undefined
        return this.#flush()
      })
      this.#nextFlush = next
      this.#lastFlush = next.catch(() => {})
    }
    return this.#nextFlush
  }

  async #flush (): Promise<void> {
    // After a failed sync the kernel takes the lost pages for clean: the next one would succeed without them.
    if (this.#failure !== undefined) throw this.#failure
    // As they are before the sync: the data of what becomes present meanwhile is not covered by it.
    const pages = this.map.takeChanges()
    await this.#sync()
    if (pages.size === 0) return
    try {
      for (const [page, bytes] of pages) await this.file.write((1 + page) * PAGE_BYTES, [bytes])
    } catch (error) {
      this.map.putBack(pages.keys())
      throw error
    }
    await this.#sync()
  }

  async #sync (): Promise<void> {
    try {
      await this.file.sync()
    } catch (error) {
      this.#failure = error
      throw error
    }
  }

  /** Writes the header anew, durably. */
  async changeHeader (change: Partial<OverlayHeader>): Promise<void> {
    const header = { ...this.#header, ...change }
    await this.file.write(0, [encodeHeader(header)])
    await this.#sync()
    this.#header = header
  }

  /** Every cluster is the base's again: durably so, then the space is given back. */
  async empty (): Promise<void> {
    this.setAll(0, clustersOf(this.#header) - 1, 0)
    await this.flush()
    await this.file.punch(dataStart(this.#header), this.#header.capacity)
  }

  close (): void {
    this.file.close()
  }
}
