import { setFlagsFromString } from 'node:v8'

/** How much bytecode a function runs, in bytes, before V8 thinks of compiling it: in Node 20, by itself. */
const BUDGET = 67_584
const LATER = 4
/** Requests with which a guest has booted. */
const BOOTED = 5000
const LOOK_MILLISECONDS = 250

/**
 * Has V8 compile four times as late as by itself, as long as a guest boots: its first thousands of requests are served sooner
 * by code that is interpreted than beside a compiler. After them, what is still to be compiled is as soon as by itself: until
 * then it is slow, and leaves garbage. Nothing happens with another Node than 20, with whose V8 that was measured.
 *
 * @param requests how many were completed in all
 * @param setFlags as `v8.setFlagsFromString`
 */
export function compileAfterBoot (requests: () => number, setFlags: (flags: string) => void = setFlagsFromString): void {
  if (!process.versions.node.startsWith('20.')) return
  setFlags(`--interrupt-budget=${LATER * BUDGET}`)
  const timer = setInterval(() => {
    if (requests() < BOOTED) return
    setFlags(`--interrupt-budget=${BUDGET}`)
    clearInterval(timer)
  }, LOOK_MILLISECONDS).unref()
}
