import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { test } from 'uvu'
import { constants } from '../../tools/constants.ts'

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
  await build({ entryPoints: [entry], outfile, bundle: true, format: 'esm', logLevel: 'silent', plugins: [constants([entry])], external: ['@node-vmm/*'] })
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

test('what is no constant number stays a name', async () => {
  const file = await bundle({
    'stays.ts': `
      const DEPTH = 4
      export let count = 1
      export const twice = DEPTH * 2
      const object = { DEPTH: 7 }
      function shadowed (DEPTH: number) { return DEPTH + 1 }
      function narrowed (kind: 1 | 2) { return kind === 1 ? kind + 10 : kind + 20 }
      count++
      export const all = [count + 0, twice + 0, object.DEPTH + 0, { DEPTH }.DEPTH + 0, shadowed(1), narrowed(2), typeof DEPTH]`
  })
  const { all } = await import(pathToFileURL(file).href)
  assert.deepEqual(all, [2, 8, 7, 4, 2, 22, 'number'])
})

test.run()
