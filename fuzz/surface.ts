import { Random } from './random.ts'

/**
 * One game against the product. Each step is a number that decides all that the step does, so that a game with fewer
 * steps is a game too: that is how a failure is made small.
 */
export interface Case {
  /** Decides how the game is set up. */
  readonly setup: number
  readonly steps: readonly number[]
}

/** The case that a campaign's seed has at a number. */
export function makeCase (seed: number, number: number, stepsMax: number): Case {
  const random = new Random(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b))
  const setup = random.word()
  return { setup, steps: Array.from({ length: random.between(1, stepsMax) }, () => random.word()) }
}

/** Takes down what happens, for the report of a failure. */
export type Tell = (line: string) => void

/** What a surface has set up for many cases. */
export interface Player {
  /** Plays one case. @throws where the product broke a promise: after that the player is closed */
  play (game: Case, tell: Tell): Promise<void> | void
  close (): Promise<void> | void
}

/** A part of the product that somebody hostile reaches. */
export interface Surface {
  readonly name: string
  /** Steps of one case, at most. */
  readonly stepsMax: number
  open (): Promise<Player> | Player
}

/** How seldom a field is broken in a case: never in some, so that long sequences of good calls are met too. */
export function brokenOneIn (random: Random): number {
  return random.pick([Infinity, 100, 30, 8])
}
