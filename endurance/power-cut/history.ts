// The log of what a guest asked for and was told, and what a disk must have afterwards.
//
// - A write is *stable* when a flush was acknowledged that was asked for after the write was acknowledged; where every
//   write is stable when it completes, when it was acknowledged.
// - A sector may have what any write put there, unless a stable write came later: was asked for after that one was
//   acknowledged. So a write that is not stable may be there or not, sector by sector, and in any order.
// - A sector is of one write.
import { content, FOREIGN, SECTOR_BYTES, writeOf, ZEROES } from './sectors.ts'

/** What changes a disk. `discard`: whatever was there, or zeroes; it is never stable. */
export type ChangeKind = 'write' | 'zeroes' | 'discard'

interface Change {
  readonly number: number
  readonly kind: ChangeKind
  readonly sector: number
  readonly sectors: number
  /** When it was asked for, in an order of all that happened. */
  readonly begun: number
  /** When it was acknowledged; Infinity when it was not. */
  ended: number
}

interface Flush {
  readonly begun: number
  isAcknowledged: boolean
}

/** When a write is stable: after a flush, or at once. */
export type Stability = 'flushed' | 'acknowledged'

/** What a sector has and must not. */
export interface Violation {
  readonly sector: number
  readonly text: string
}

/** All that one guest did with a disk. */
export class History {
  readonly sectors: number
  readonly #stability: Stability
  /** By number: 0 is what was there at first, stable. */
  readonly #changes: Change[]
  readonly #flushes: Flush[] = []
  #now = 0

  constructor (sectors: number, stability: Stability) {
    this.sectors = sectors
    this.#stability = stability
    this.#changes = [{ number: 0, kind: 'write', sector: 0, sectors, begun: this.#now++, ended: this.#now++ }]
  }

  /** What the disk has at first. */
  get initial (): Uint8Array {
    return content(0, 0, this.sectors)
  }

  /** Changes that were acknowledged. */
  get acknowledged (): number {
    return this.#changes.filter(({ ended }) => ended < Infinity).length - 1
  }

  /** Flushes that were acknowledged. */
  get flushes (): number {
    return this.#flushes.filter(({ isAcknowledged }) => isAcknowledged).length
  }

  /** A change is about to be asked for. @returns its number, for `content` and `end` */
  begin (kind: ChangeKind, sector: number, sectors: number): number {
    const number = this.#changes.length
    this.#changes.push({ number, kind, sector, sectors, begun: this.#now++, ended: Infinity })
    return number
  }

  /** A change was acknowledged. */
  end (number: number): void {
    this.#changes[number]!.ended = this.#now++
  }

  /** A flush is about to be asked for. @returns to be called when it was acknowledged */
  flush (): () => void {
    const flush: Flush = { begun: this.#now++, isAcknowledged: false }
    this.#flushes.push(flush)
    return () => { flush.isAcknowledged = true }
  }

  /** What is wrong with a disk that was found like this. */
  check (disk: Uint8Array): Violation[] {
    const found = new Uint32Array(disk.buffer, disk.byteOffset, disk.length / 4)
    const violations: Violation[] = []
    const stableUntil = this.#stableUntil()
    const bySector = this.#bySector()
    for (let sector = 0; sector < this.sectors; sector++) {
      const words = found.subarray(sector * SECTOR_BYTES / 4, (sector + 1) * SECTOR_BYTES / 4)
      const text = judge(writeOf(words, sector), bySector[sector]!, stableUntil)
      if (text !== undefined) violations.push({ sector, text })
    }
    return violations
  }

  /** Changes that were acknowledged before this are stable. */
  #stableUntil (): number {
    if (this.#stability === 'acknowledged') return Infinity
    return Math.max(0, ...this.#flushes.filter(({ isAcknowledged }) => isAcknowledged).map(({ begun }) => begun))
  }

  #bySector (): Change[][] {
    const bySector: Change[][] = Array.from({ length: this.sectors }, () => [])
    for (const change of this.#changes) {
      for (let sector = change.sector; sector < change.sector + change.sectors; sector++) bySector[sector]!.push(change)
    }
    return bySector
  }
}

/** @returns what is wrong with a sector that has this write, undefined where that may be */
function judge (write: number, changes: readonly Change[], stableUntil: number): string | undefined {
  const stable = changes.filter(({ number, kind, ended }) => number === 0 || (kind !== 'discard' && ended < stableUntil))
  const overwrittenBy = (change: Change): Change | undefined => stable.find(({ begun }) => begun > change.ended)
  if (write === FOREIGN) return `has what nobody wrote, or parts of several writes; ${describe(stable.at(-1)!)} is stable`
  const candidates = changes.filter(({ number, kind }) => write === ZEROES ? kind !== 'write' : kind === 'write' && number === write)
  if (candidates.length === 0) return write === ZEROES ? 'has zeroes, for which nobody asked' : `has write ${write}, which is of other sectors`
  if (candidates.some((change) => overwrittenBy(change) === undefined)) return undefined
  const last = candidates.at(-1)!
  return `has ${describe(last)}, but ${describe(overwrittenBy(last)!)} is stable and came later`
}

function describe ({ number, kind }: Change): string {
  return number === 0 ? 'what was there at first' : `${kind} ${number}`
}
