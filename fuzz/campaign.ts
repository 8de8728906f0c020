import { check, asyncProperty, array, nat, noShrink } from 'fast-check'
import { readdirSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { type Case, makeCase, type Player, type Surface } from './surface.ts'

/** How long cases are played between two turns of the event loop, which finalizers and timers need. */
const TURN_MILLISECONDS = 20
/** Before this, memory and descriptors may still grow: code is compiled, data planes are started. */
const WARM_UP_MILLISECONDS = 5000
/** What may come on top: the rest of a garbage that is not collected yet, a thread that was started late. */
const GROWTH_BYTES_MAX = 256 * 2 ** 20
const GROWTH_FDS_MAX = 256
/** How long a failure is made smaller at most. */
const SHRINK_MILLISECONDS = 60_000

/** What to play. */
export interface CampaignOptions {
  readonly seed: number
  /** @default 0 */
  readonly first?: number
  /** @default Infinity */
  readonly cases?: number
  /** @default Infinity */
  readonly milliseconds?: number
  /** Told of every case before it is played, and of every attempt to make it smaller. @default nobody is told */
  readonly onCase?: (number: number) => void
  /** Told now and then how many cases were played. @default nobody is told */
  readonly onProgress?: (played: number, milliseconds: number) => void
}

/** A promise that the product broke. */
export interface Failure {
  readonly number: number
  readonly error: Error
  /** The case, as small as it was made. */
  readonly game: Case
  /** What happened in it, line by line. */
  readonly story: readonly string[]
  /** It did not fail again when it was repeated. */
  readonly isFlaky: boolean
}

/** How a campaign ended. */
export interface Result {
  readonly played: number
  readonly milliseconds: number
  readonly failure: Failure | undefined
}

/** Plays case after case until one fails, or the time or the cases are over. */
export async function campaign (surface: Surface, options: CampaignOptions): Promise<Result> {
  const { seed, first = 0, cases = Infinity, milliseconds: limit = Infinity, onCase = () => {}, onProgress = () => {} } = options
  const started = performance.now()
  const growth = new Growth()
  const player = await surface.open()
  let played = 0
  let nextTurn = 0
  for (; played < cases; played++) {
    const elapsed = performance.now() - started
    if (elapsed >= nextTurn) {
      if (elapsed > limit) break
      await setImmediate()
      onProgress(played, elapsed)
      nextTurn = elapsed + TURN_MILLISECONDS
    }
    const number = first + played
    onCase(number)
    const game = makeCase(seed, number, surface.stepsMax)
    let error = await failureOf(player, game)
    if (error === undefined) error = growth.look(elapsed)
    if (error === undefined) continue
    const milliseconds = performance.now() - started
    return { played: played + 1, milliseconds, failure: { number, ...await makeSmall(surface, game, error, () => onCase(number)) } }
  }
  await player.close()
  return { played, milliseconds: performance.now() - started, failure: undefined }
}

/** Plays a case on a player of its own. @returns what it breaks */
export async function playOnce (surface: Surface, game: Case, story: string[] = []): Promise<Error | undefined> {
  const player = await surface.open()
  const error = await failureOf(player, game, story)
  if (error !== undefined) return error
  await player.close()
  return undefined
}

/** A player that failed is closed, as far as it can be. */
async function failureOf (player: Player, game: Case, story?: string[]): Promise<Error | undefined> {
  try {
    const playing = player.play(game, story === undefined ? () => {} : (line) => { story.push(line) })
    // Most are synchronous: a turn of the microtask queue a case is a good part of their time.
    if (playing !== undefined) await playing
    return undefined
  } catch (thrown) {
    await Promise.resolve(player.close()).catch(() => {})
    return thrown instanceof Error ? thrown : new Error(String(thrown))
  }
}

/** Leaves out steps as long as it fails. */
async function makeSmall (surface: Surface, game: Case, error: Error, onAttempt: () => void): Promise<Omit<Failure, 'number'>> {
  const until = performance.now() + SHRINK_MILLISECONDS
  const step = noShrink(nat({ max: 0xffffffff }))
  const fails = asyncProperty(array(step, { maxLength: game.steps.length }), async (steps) => {
    onAttempt()
    return performance.now() > until || await playOnce(surface, { ...game, steps }) === undefined
  })
  const { counterexample } = await check(fails, { examples: [[[...game.steps]]], numRuns: 1 })
  const steps = counterexample?.[0] ?? game.steps
  const story: string[] = []
  const again = await playOnce(surface, { ...game, steps }, story)
  return { error: again ?? error, game: { ...game, steps }, story, isFlaky: again === undefined }
}

/** Looks whether the process grows without end. */
class Growth {
  #bytes = 0
  #fds = 0
  #next = WARM_UP_MILLISECONDS

  look (milliseconds: number): Error | undefined {
    if (milliseconds < this.#next) return undefined
    this.#next = milliseconds + 1000
    const bytes = process.memoryUsage.rss()
    const fds = readdirSync('/proc/self/fd').length
    if (this.#bytes === 0) [this.#bytes, this.#fds] = [bytes, fds]
    if (bytes > this.#bytes + GROWTH_BYTES_MAX) return new Error(`the process grew from ${mebibytes(this.#bytes)} to ${mebibytes(bytes)} MiB`)
    if (fds > this.#fds + GROWTH_FDS_MAX) return new Error(`the process had ${this.#fds} open descriptors, and has ${fds}`)
    return undefined
  }
}

function mebibytes (bytes: number): number {
  return Math.round(bytes / 2 ** 20)
}
