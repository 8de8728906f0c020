import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'

const loader = fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url))
const toPath = (name: string): string => fileURLToPath(new URL(`./support/${name}.ts`, import.meta.url))

/** Bytes a chain. The smallest object has 12: this is less than one for every 20 chains. */
const ENOUGH = 0.5

interface Measurement {
  readonly fault?: string
  readonly bytesPerChain: number
  readonly nanosecondsPerChain: number
}

function measure (kind: string, program = toPath('allocation-measure')): Measurement {
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

test('chains of a packed ring whose device keeps a record of them allocate nothing', () => {
  const { fault, bytesPerChain, nanosecondsPerChain } = measure('packed', toPath('packed-allocation-measure'))
  console.log(`\nnote: packed, recorded: ${bytesPerChain.toFixed(3)} bytes and ${nanosecondsPerChain.toFixed(0)} ns a chain of 3 descriptors`)
  assert.equal(fault, undefined)
  assert.ok(bytesPerChain <= ENOUGH, `${bytesPerChain} bytes a chain`)
})

test.run()
