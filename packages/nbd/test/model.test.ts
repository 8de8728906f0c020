// Whatever is asked for, and however much at once: an export behaves like an array of bytes.
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'uvu'
import { cleanUp } from '../../../test/support/temporary.ts'
import { NbdClient } from '../src/index.ts'
import { nbdkit, nbdkitTest } from './support/servers.ts'

test.after.each(cleanUp)

const SIZE = 1 << 20
const BLOCK = 512

const range = fc.tuple(fc.nat(SIZE / BLOCK - 1), fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 600 })))
const step = fc.record({ kind: fc.constantFrom('read', 'write', 'zero', 'flush'), range, byte: fc.nat(255), cuts: fc.array(fc.nat(600 * BLOCK), { maxLength: 4 }) })

/** The memory in pieces. */
function cut (bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const bounds = [0, ...cuts.map((at) => at % bytes.length).sort((a, b) => a - b), bytes.length]
  return bounds.slice(1).map((end, index) => bytes.subarray(bounds[index], end))
}

for (const [name, args, connections] of [['structured replies', [], 1], ['simple replies', ['--no-sr'], 1], ['four connections', [], 4]] as const) {
  nbdkitTest(`a disk over nbdkit behaves like an array of bytes: ${name}`, async () => {
    const { uri } = await nbdkit([...args, 'memory', String(SIZE)])
    const client = await NbdClient.connect({ uri, connections })
    const model = new Uint8Array(SIZE)
    await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 30 }), async (steps) => {
      const pending: Promise<void>[] = []
      /** What a call may not be in flight together with. */
      let busy: [number, number, boolean][] = []
      for (const { kind, range: [block, blocks], byte, cuts } of steps) {
        const start = block * BLOCK
        const end = Math.min(SIZE, start + blocks * BLOCK)
        const isWrite = kind === 'write' || kind === 'zero'
        if (busy.some(([from, to, wasWrite]) => from < end && start < to && (isWrite || wasWrite))) {
          await Promise.all(pending.splice(0))
          busy = []
        }
        busy.push([start, end, isWrite])
        if (kind === 'write') {
          model.fill(byte, start, end)
          model[start] = byte ^ 255
          pending.push(client.write(start, cut(model.slice(start, end), cuts), { fua: byte % 2 === 0 }))
        } else if (kind === 'zero') {
          model.fill(0, start, end)
          pending.push(client.writeZeroes(start, end - start, { noHole: byte % 2 === 0 }))
        } else if (kind === 'read') {
          const bytes = new Uint8Array(end - start).fill(0xee)
          const expected = model.slice(start, end)
          pending.push(client.readInto(start, cut(bytes, cuts)).then(() => assert.ok(Buffer.from(bytes).equals(expected), `read of ${end - start} at ${start}`)))
        } else {
          pending.push(client.flush())
        }
      }
      await Promise.all(pending)
    }), { numRuns: 60 })
    assert.ok(Buffer.from(await client.read(0, SIZE)).equals(model))
    await client.close()
  })
}

test.run()
