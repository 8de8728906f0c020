import assert from 'node:assert/strict'
import { once } from 'node:events'
import { setTimeout } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import {
  RACE_ADDRESS, RACE_ANSWER, RACE_CHANGES, RACE_COMMAND, RACE_END, RACE_IDLE, RACE_LENGTH, RACE_PACE, RACE_PARTS, RACE_RESTORES, RACE_SEED, type RacerInit
} from './control.ts'

const END_MILLISECONDS = 30_000

/** The racing thread, from the thread that plays the driver. */
export class Race {
  readonly #control = new SharedArrayBuffer(128)
  readonly #words = new Uint32Array(this.#control)
  readonly #atomics = new Int32Array(this.#control)
  readonly #worker = new Worker(new URL('./racer.ts', import.meta.url), { workerData: { control: this.#control } satisfies RacerInit })
  readonly #ended = once(this.#worker, 'exit')

  /** Words that were changed so far, modulo 2^32. */
  get changes (): number {
    return this.#words[RACE_CHANGES]!
  }

  /**
   * Races for these bytes of this process, until `end`.
   *
   * @param parts of them that are worth it: where each begins, and its bytes, both multiples of 4.
   * @param restores how often a word is changed back, of 256.
   * @param pace how long it rests after each change: loads of a word, at most.
   */
  begin (address: number, length: number, parts: readonly (readonly [at: number, bytes: number])[], seed: number, { restores, pace }: { restores: number, pace: number }): void {
    this.#words[RACE_ADDRESS] = address
    this.#words[RACE_ADDRESS + 1] = address / 0x100000000
    this.#words[RACE_LENGTH] = length
    this.#words[RACE_SEED] = seed
    this.#words[RACE_RESTORES] = restores
    this.#words[RACE_PACE] = pace
    this.#words[RACE_PARTS] = parts.length
    parts.forEach(([at, bytes], index) => this.#words.set([at / 4, (at + bytes) / 4 - 1], RACE_PARTS + 1 + 2 * index))
    this.#command(1)
  }

  /** Nothing is changed any more when this resolves. */
  async end (): Promise<void> {
    Atomics.store(this.#atomics, RACE_ANSWER, 1)
    this.#command(RACE_IDLE)
    for (const until = performance.now() + END_MILLISECONDS; Atomics.load(this.#atomics, RACE_ANSWER) !== RACE_IDLE;) {
      assert.ok(performance.now() < until, 'the racing thread does not end')
      await setTimeout(1)
    }
  }

  #command (command: number): void {
    Atomics.store(this.#atomics, RACE_COMMAND, command)
    Atomics.notify(this.#atomics, RACE_COMMAND)
  }

  async close (): Promise<void> {
    this.#command(RACE_END)
    await this.#ended
  }
}
