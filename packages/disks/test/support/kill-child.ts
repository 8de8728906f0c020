// Writes, zeroes, discards and flushes at random until it is killed, and tells each on standard output, before and after.
import { writeSync } from 'node:fs'
import { overlay } from '../../src/overlay.ts'
import { randomNumbers } from '../../src/random.ts'
import { pattern, signal } from './model.ts'

const [file, seedText] = process.argv.slice(2) as [string, string]
const disk = await overlay({ file })
const random = randomNumbers(Number(seedText))
const sectors = disk.capacity / 512
const LANES = 4

function tell (...what: readonly (string | number)[]): void {
  writeSync(1, `${what.join(' ')}\n`)
}

async function lane (number: number): Promise<void> {
  for (;;) {
    // Lanes share clusters and no sector.
    const sector = Math.floor(random() * sectors / LANES) * LANES + number
    const seed = random() < 0.3 ? 0 : 1 + Math.floor(random() * 2 ** 31)
    tell('begin', sector, seed)
    if (seed === 0) await disk.writeZeroes!(sector * 512, 512, true, signal)
    else await disk.write!(sector * 512, [pattern(512, seed)], signal)
    tell('end', sector, seed)
  }
}

async function flusher (): Promise<void> {
  for (let number = 0; ; number++) {
    await new Promise((resolve) => setTimeout(resolve, random() * 5))
    tell('flush', number)
    await disk.flush!(signal)
    tell('flushed', number)
  }
}

await Promise.all([...Array.from({ length: LANES }, (_, number) => lane(number)), flusher()])
