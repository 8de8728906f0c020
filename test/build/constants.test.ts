import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { test } from 'uvu'
import { constants } from '../../tools/constants.ts'
import { rewriting } from '../../tools/rewriting.ts'

// Where packages are found by their names.
const folder = fileURLToPath(new URL('../../bench/dist/constants-test', import.meta.url))
const inFolder = (name: string): string => join(folder, name)

test.before(() => { mkdirSync(folder, { recursive: true }) })
test.after(() => rmSync(folder, { recursive: true, force: true }))

/** A bundle of these modules, the first one being its entry. @returns its file */
async function bundle (modules: Readonly<Record<string, string>>): Promise<string> {
  for (const [name, text] of Object.entries(modules)) writeFileSync(inFolder(name), text)
  const [entry] = Object.keys(modules).map(inFolder) as [string]
  const outfile = `${entry}.js`
  await build({ entryPoints: [entry], outfile, bundle: true, format: 'esm', logLevel: 'silent', plugins: [rewriting([entry], [constants])], external: ['@node-vmm/*'] })
  return outfile
}

test('a constant of this module, of another one and of another package becomes its number', async () => {
  const text = readFileSync(await bundle({
    'uses.ts': `
      import { VIRTIO_BLK_T_OUT } from '@node-vmm/virtio-blk-driver'
      import { FLAG, MINUS } from './defines.ts'
      const OWN = 0xffff
      export function use (word: number) { return [(word & FLAG) !== 0, word - MINUS, word & OWN, word === VIRTIO_BLK_T_OUT] }`,
    'defines.ts': 'export const FLAG = 4, MINUS = -1'
  }), 'utf8')
  assert.match(text, /\[\(word & 4\) !== 0, word - -1, word & 65535, word === 1\]/)
})

test('a constant that is computed from others becomes its number', async () => {
  const text = readFileSync(await bundle({
    'computes.ts': `
      import { BITS } from './bits.ts'
      const SIZE = 1 << BITS, MASK = SIZE - 1, PLACES = (SIZE + 4) * 2 ** 3 / 2, FLAGS = (SIZE | 1) & 0x11
      export function use (word: number) { return [word & MASK, word - PLACES, word | FLAGS] }`,
    'bits.ts': 'export const BITS = 4'
  }), 'utf8')
  assert.match(text, /\[word & 15, word - 80, word \| 17\]/)
})

test('what is no constant number stays a name', async () => {
  const file = await bundle({
    'stays.ts': `
      const DEPTH = 4
      export let count = 1
      export const twice = count * 2
      const object = { DEPTH: 7 }
      function shadowed (DEPTH: number) { return DEPTH + 1 }
      function narrowed (kind: 1 | 2) { return kind === 1 ? kind + 10 : kind + 20 }
      count++
      const text = DEPTH + 'th', parsed = Number('5'), compared = DEPTH < 5
      export const all = [count + 0, twice + 0, text + 0, parsed + 0, compared || 0, object.DEPTH + 0, { DEPTH }.DEPTH + 0, shadowed(1), narrowed(2), typeof DEPTH]`
  })
  const { all } = await import(pathToFileURL(file).href)
  assert.deepEqual(all, [2, 2, '4th0', 5, true, 7, 4, 2, 22, 'number'])
})

test.run()
