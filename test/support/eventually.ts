import { setTimeout as sleep } from 'node:timers/promises'

/** Waits until it is so, looking every millisecond. @throws where it is not within a minute */
export async function eventually (what: string, isSo: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 60_000; !isSo(); await sleep(1)) {
    if (Date.now() > deadline) throw new Error(`${what}: not within a minute`)
  }
}
