// What the racing thread and the one that plays the driver share.

/** What it is started with. */
export interface RacerInit {
  /** Words of 32 bits: see `RACE_COMMAND` and those below it. */
  readonly control: SharedArrayBuffer
}

/** `RACE_IDLE`, or one more each time that it shall race; `RACE_END` once. */
export const RACE_COMMAND = 0
/** The last command that it has seen to: while it differs, it is at it. */
export const RACE_ANSWER = 1
export const RACE_SEED = 2
/** The host address of the memory to race for, in two words. */
export const RACE_ADDRESS = 4
/** How many bytes that is. */
export const RACE_LENGTH = 6
/** How often it changes a word back: as so many of 256. */
export const RACE_RESTORES = 7
/** How long it waits after each change: loads of a word, at most. */
export const RACE_PACE = 9
/** Words that it changed so far. */
export const RACE_CHANGES = 8

/** How many parts of that memory are worth it, and from there on the first and the last word of each. */
export const RACE_PARTS = 10

export const RACE_IDLE = 0
export const RACE_END = -1
