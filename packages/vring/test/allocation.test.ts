import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'

const loader = fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url))
const program = fileURLToPath(new URL('./support/allocation-measure.ts', import.meta.url))

/** Bytes a chain. The smallest object has 12: this is less than one for every 20 chains. */
const ENOUGH = 0.5

interface Measurement {
  readonly fault?: string
  readonly bytesPerChain: number
  readonly nanosecondsPerChain: number
}

function measure (kind: string): Measurement {
  // A young generation that has room for 64 bytes a chain: nothing is collected while it is measured.
  const output = execFileSync(process.execPath, [
    '--import', loader, '--conditions=@node-vmm/source', '--min-semi-space-size=64', '--max-semi-space-size=64',
    program, kind, String(ENOUGH)
  ], { encoding: 'utf8', timeout: 100_000, killSignal: 'SIGKILL' })
  return JSON.parse(output)
}

for (const kind of ['direct', 'indirect']) {
  test(`${kind} chains of several regions, above 4 GiB too, allocate nothing`, () => {
    const { fault, bytesPerChain, nanosecondsPerChain } = measure(kind)
    console.log(`\nnote: ${kind}: ${bytesPerChain.toFixed(3)} bytes and ${nanosecondsPerChain.toFixed(0)} ns a chain of 3 descriptors`)
    assert.equal(fault, undefined)
    assert.ok(bytesPerChain <= ENOUGH, `${bytesPerChain} bytes a chain`)
  })
}

test.run()
