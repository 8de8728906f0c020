import { DiskError } from './errors.ts'

/** How much of something there may be, after Firecracker's `TokenBucket`. */
export interface Bucket {
  /** Tokens that the bucket holds, and begins with. One is one request, or one byte. */
  readonly size: number
  /** Milliseconds in which an empty bucket fills. @default 1000 */
  readonly refillTime?: number
  /** Tokens that are there once, at the beginning, and are taken first. @default 0 */
  readonly oneTimeBurst?: number
}

/** Counts what may be taken. What is larger than the bucket takes a full one and leaves a debt, so that the rate holds. */
export class TokenBucket {
  readonly #size: number
  readonly #perMillisecond: number
  #burst: number
  #tokens: number
  #then: number

  /** @param now milliseconds @throws DiskError ERR_DISK_OPTION */
  constructor ({ size, refillTime = 1000, oneTimeBurst = 0 }: Bucket, now: number) {
    if (!(size > 0) || !(refillTime > 0) || !(oneTimeBurst >= 0)) {
      throw new DiskError('ERR_DISK_OPTION', 'a token bucket has a size and a refillTime above 0, and a oneTimeBurst of 0 or more: ' +
        `not ${size}, ${refillTime} and ${oneTimeBurst}`)
    }
    this.#size = size
    this.#perMillisecond = size / refillTime
    this.#burst = oneTimeBurst
    this.#tokens = size
    this.#then = now
  }

  /** Milliseconds until so many can be taken: 0 for now. */
  wait (tokens: number, now: number): number {
    this.#tokens = Math.min(this.#size, this.#tokens + (now - this.#then) * this.#perMillisecond)
    this.#then = now
    if (tokens === 0) return 0
    const needed = Math.min(Math.max(0, tokens - this.#burst), this.#size)
    return Math.max(0, (needed - this.#tokens) / this.#perMillisecond)
  }

  /** Takes them, the burst's first. Call it when there is nothing to wait for. */
  take (tokens: number): void {
    const fromBurst = Math.min(tokens, this.#burst)
    this.#burst -= fromBurst
    this.#tokens -= tokens - fromBurst
  }
}
