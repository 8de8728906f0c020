import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { close, mmap, munmap, O_RDWR, open, PAGE_SIZE, viewMemory } from '@node-vmm/libc'

// What a campaign is at, in a file that it has mapped: its number is still there when the process was killed by a
// signal, or hangs, and it costs a store a case.

const NUMBER = 0
const BEATS = 1

/** What a campaign does, as others see it. */
export interface Beat {
  /** The case that is being played. */
  readonly number: number
  /** Grows with every case, and every attempt to make one smaller. */
  readonly beats: number
}

/** The side of whoever watches a campaign. */
export class HeartbeatFile {
  readonly path: string
  readonly #folder = mkdtempSync(join(tmpdir(), 'node-vmm-fuzz-'))
  readonly #fd: number

  constructor () {
    this.path = join(this.#folder, 'heartbeat')
    writeFileSync(this.path, Buffer.alloc(PAGE_SIZE))
    this.#fd = openSync(this.path, 'r')
  }

  read (): Beat {
    const words = new Float64Array(2)
    readSync(this.#fd, words, 0, 16, 0)
    return { number: words[NUMBER]!, beats: words[BEATS]! }
  }

  remove (): void {
    closeSync(this.#fd)
    rmSync(this.#folder, { recursive: true })
  }
}

/** The side of a campaign. */
export class Heartbeat {
  readonly #address: number
  readonly #words: Float64Array

  constructor (path: string) {
    const fd = open(path, O_RDWR)
    this.#address = mmap({ fd, length: PAGE_SIZE })
    close(fd)
    this.#words = new Float64Array(viewMemory(this.#address, PAGE_SIZE))
  }

  beat (number: number): void {
    this.#words[NUMBER] = number
    this.#words[BEATS]!++
  }

  close (): void {
    munmap(this.#address, PAGE_SIZE)
  }
}
