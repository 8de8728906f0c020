/** More pieces, with gaps between them, than an honest server makes of a read. */
const PIECES_MAX = 1024

/** Which bytes of a read have been answered. */
export class Coverage {
  readonly #length: number
  /** Ends of the pieces, sorted: start, end, start, end, … No two touch. */
  readonly #bounds: number[] = []

  constructor (length: number) {
    this.#length = length
  }

  /** No byte is missing. */
  get isComplete (): boolean {
    return this.#length === 0 || (this.#bounds.length === 2 && this.#bounds[0] === 0 && this.#bounds[1] === this.#length)
  }

  /** Adds a piece. @returns false where it is empty, outside, answered already, or one of too many */
  add (start: number, length: number): boolean {
    const end = start + length
    if (start < 0 || length <= 0 || end > this.#length) return false
    const bounds = this.#bounds
    let at = bounds.length
    while (at > 0 && bounds[at - 2] >= start) at -= 2
    if (at > 0 && bounds[at - 1] > start) return false
    if (at < bounds.length && bounds[at] < end) return false
    const touchesLeft = at > 0 && bounds[at - 1] === start
    const touchesRight = at < bounds.length && bounds[at] === end
    if (touchesLeft && touchesRight) bounds.splice(at - 1, 2)
    else if (touchesLeft) bounds[at - 1] = end
    else if (touchesRight) bounds[at] = start
    else bounds.splice(at, 0, start, end)
    return bounds.length <= 2 * PIECES_MAX
  }
}
