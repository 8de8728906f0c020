import { setFlagsFromString } from 'node:v8'

/** How much bytecode a function runs, in bytes, before V8 thinks of compiling it: in Node 20, by itself. */
const BUDGET = 67_584
const LATER = 4
const OPTION = /^--interrupt[-_]budget(=|$)/
/** Requests with which a guest has booted, or, if it has little to do with its disk, milliseconds. */
const BOOTED = 5000
const BOOT_MILLISECONDS = 60_000
const LOOK_MILLISECONDS = 250

/** What `compileAfterBoot` goes by. */
export interface CompilingOptions {
  /** How many requests were completed in all. */
  readonly requests: () => number
  /** @default `v8.setFlagsFromString` */
  readonly setFlags?: (flags: string) => void
  /** Options that the user has given to Node. @default those of this process */
  readonly chosen?: readonly string[]
  /** @default 60,000 */
  readonly bootMilliseconds?: number
}

/**
 * Has V8 compile four times as late as by itself, as long as the first guest boots: its first thousands of requests are served sooner
 * by code that is interpreted than beside a compiler. After them, what is still to be compiled is as soon as by itself: until
 * then it is slow, and leaves garbage. Nothing happens with another Node than 20, with whose V8 that was measured, nor where the user
 * has chosen.
 *
 * @returns to be called when a front-end connects: as long as nobody has, nothing is to be looked at
 */
export function compileAfterBoot ({
  requests, setFlags = setFlagsFromString, chosen = process.execArgv, bootMilliseconds = BOOT_MILLISECONDS
}: CompilingOptions): () => void {
  if (!process.versions.node.startsWith('20.') || chosen.some((option) => OPTION.test(option))) return () => {}
  setFlags(`--interrupt-budget=${LATER * BUDGET}`)
  let timer: NodeJS.Timeout | undefined
  return () => {
    const end = performance.now() + bootMilliseconds
    timer ??= setInterval(() => {
      if (requests() < BOOTED && performance.now() < end) return
      setFlags(`--interrupt-budget=${BUDGET}`)
      clearInterval(timer)
    }, LOOK_MILLISECONDS).unref()
  }
}
