import { setTimeout as sleep } from 'node:timers/promises'

const WINDOW_MS = 200
/** Of a window, what timers and the collector may take. A thread that spins takes more, even beside several others. */
const BUSY_MAX = 0.2

/** Waits until no thread of this process spins: for a while they take next to no time. @throws where they never stop */
export async function quiet (): Promise<void> {
  const deadline = Date.now() + 30_000
  for (;;) {
    const [before, started] = [process.cpuUsage(), performance.now()]
    await sleep(WINDOW_MS)
    const { user, system } = process.cpuUsage(before)
    const share = (user + system) / 1000 / (performance.now() - started)
    if (share < BUSY_MAX) return
    if (Date.now() > deadline) throw new Error(`the process takes ${Math.round(100 * share)} % of a processor, and does nothing`)
  }
}
