import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { test } from 'uvu'
import { fields } from '../../tools/fields.ts'
import { rewriting } from '../../tools/rewriting.ts'

const folder = fileURLToPath(new URL('../../bench/dist/fields-test', import.meta.url))

test.before(() => { mkdirSync(folder, { recursive: true }) })
test.after(() => rmSync(folder, { recursive: true, force: true }))

/** @returns the file that comes of a module */
async function built (name: string, text: string): Promise<string> {
  const entry = join(folder, name)
  writeFileSync(entry, text)
  const outfile = `${entry}.js`
  await build({ entryPoints: [entry], outfile, format: 'esm', bundle: true, logLevel: 'silent', plugins: [rewriting([entry], [fields])] })
  return outfile
}

test('what the constructor sets is not declared, and keeps its value; a private name becomes one of its class\'s', async () => {
  const file = await built('set.ts', `
    export class Ring {
      readonly size: number
      readonly #words: Uint32Array
      #next = 1
      constructor (size: number) {
        this.size = size
        this.#words = new Uint32Array(size)
      }
      take (): number { return this.#words[this.#next++]! }
      put (value: number): void { this.#words[this.#next] = value }
      isLike (other: object): boolean { return #words in other && this.#words.length === other.#words.length }
    }`)
  assert.doesNotMatch(readFileSync(file, 'utf8'), /^ {2}#?\w+;$/m)
  const { Ring } = await import(pathToFileURL(file).href)
  const ring = new Ring(4)
  ring.put(7)
  assert.deepEqual([ring.size, ring.take(), ring.isLike(new Ring(4)), ring.isLike({}), Object.keys(ring)], [4, 7, true, false, ['size', '_Ring_words']])
})

test('a class and the one that it extends have fields of the same private name', async () => {
  const file = await built('extends.ts', `
    class Under {
      readonly #name: string
      constructor (name: string) { this.#name = name }
      get under (): string { return this.#name }
    }
    export class Over extends Under {
      readonly #name: string
      constructor () { super('under'); this.#name = 'over' }
      get over (): string { return this.#name }
    }`)
  const { Over } = await import(pathToFileURL(file).href)
  const over = new Over()
  assert.deepEqual([over.under, over.over], ['under', 'over'])
})

test('what may be undefined, has a value, or is static stays declared', async () => {
  const file = await built('stays.ts', `
    export class Stays {
      fault: string | undefined
      readonly given?: number
      later!: number
      #again: number[] | undefined
      #count = 0
      static readonly first: number
      constructor (count: number) { if (count > 0) this.#again = [this.#count = count] }
      get has (): boolean { return #again in this && this.#again !== undefined }
    }`)
  const text = readFileSync(file, 'utf8')
  for (const name of ['fault', 'given', 'later', '#again', 'static first']) assert.match(text, new RegExp(`^ +${name};$`, 'm'))
  const { Stays } = await import(pathToFileURL(file).href)
  assert.deepEqual(Object.keys(new Stays(0)), ['fault', 'given', 'later'])
  assert.deepEqual([new Stays(0).has, new Stays(1).has], [false, true])
})

test.run()
