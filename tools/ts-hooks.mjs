import { createHash, randomUUID } from 'node:crypto'
import { mkdirSync, readFileSync } from 'node:fs'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

// What was made of a source is kept, by its content: esbuild takes longer to start than most tests take, and each
// process and each Worker has hooks of its own.
const cache = fileURLToPath(new URL('../node_modules/.cache/ts/', import.meta.url))
mkdirSync(cache, { recursive: true })
const options = { loader: 'ts', format: 'esm', target: 'node20', sourcemap: 'inline' }
const maker = JSON.stringify(options) + readFileSync(new URL('../node_modules/esbuild/package.json', import.meta.url), 'utf8')

export async function load (url, context, next) {
  if (!/\.m?ts(\?|$)/.test(url)) return next(url, context)
  const sourcefile = fileURLToPath(url)
  const text = await readFile(sourcefile, 'utf8')
  const key = createHash('sha256').update(maker).update(sourcefile).update('\0').update(text).digest('hex')
  return { format: 'module', shortCircuit: true, source: await kept(`${cache}${key}.js`, () => transform(text, sourcefile)) }
}

async function kept (file, make) {
  try {
    return await readFile(file, 'utf8')
  } catch {
    const made = await make()
    // Others may read or write the same file now: it appears whole.
    const unfinished = `${file}.${randomUUID()}`
    await writeFile(unfinished, made)
    await rename(unfinished, file)
    return made
  }
}

async function transform (text, sourcefile) {
  const esbuild = await import('esbuild')
  return (await esbuild.transform(text, { ...options, sourcefile })).code
}
