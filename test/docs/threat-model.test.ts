import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'

const root = fileURLToPath(new URL('../..', import.meta.url))
const documents = ['docs/threat-model.md', 'SECURITY.md']

interface Link {
  readonly text: string
  readonly path: string
}

/** The links of a document that lead into this repository. */
function links (document: string): Link[] {
  const all = readFileSync(join(root, document), 'utf8').matchAll(/\[([^\]]*)\]\(([^)]+)\)/g)
  return [...all].filter(([, , target]) => !target!.startsWith('http'))
    .map(([, text, target]) => ({ text: text!, path: join(root, dirname(document), target!.replace(/#.*/, '')) }))
}

/** Whether the pieces of a title, which "…" stands between, are in a test one behind the other. */
function hasTitle (file: string, title: string): boolean {
  const source = readFileSync(file, 'utf8').replaceAll("\\'", "'")
  let at = 0
  return title.split('…').every((piece) => {
    at = source.indexOf(piece, at)
    return at >= 0
  })
}

for (const document of documents) {
  test(`everything that ${document} leads to is there, each test by its title`, () => {
    const found = links(document)
    assert.ok(found.length > 0)
    const missing = found.filter(({ text, path }) => !existsSync(path) || (path.endsWith('.test.ts') && (text === '' || !hasTitle(path, text))))
    assert.deepEqual(missing, [])
  })
}

test('the README leads to both', () => {
  const targets = links('README.md').map(({ path }) => path)
  for (const document of documents) assert.ok(targets.includes(join(root, document)), document)
})

test.run()
