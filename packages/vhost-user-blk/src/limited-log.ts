/** Lines that may come at once. */
const LINES_AT_ONCE = 128
/** Milliseconds after which one more may come. */
const MILLISECONDS_A_LINE = 10_000

/**
 * A log that a guest or a front-end cannot fill a disk with, whatever it does and however often it comes back: 128 lines
 * at once, then one in ten seconds, and how many were left out.
 *
 * @param now milliseconds of a clock that nobody sets.
 */
export function limited (log: (line: string) => void, now: () => number = () => performance.now()): (line: string) => void {
  let credit = LINES_AT_ONCE
  let looked = now()
  let leftOut = 0
  return (line) => {
    const time = now()
    credit = Math.min(LINES_AT_ONCE, credit + (time - looked) / MILLISECONDS_A_LINE)
    looked = time
    if (credit < 1) {
      leftOut++
      return
    }
    credit--
    if (leftOut > 0) log(`${leftOut} more were left out here`)
    leftOut = 0
    log(line)
  }
}
