// Error codes are a part of the API: each is listed in docs/errors.md, and nothing else is.
import { deepEqual, ok } from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { packages, root } from '../../tools/packages.ts'

const sections = readFileSync(join(root, 'docs/errors.md'), 'utf8').split(/^## @node-vmm\//m).slice(1)
const listed = new Map(sections.map((section) => [/^\S+/.exec(section)![0], new Set(codes(section, /^\| `(ERR_[A-Z_]+)` \|/gm))]))
const used = new Map(packages().map((name) => [name, new Set(codes(sources(name), /'(ERR_[A-Z_]+)'/g))]))

function codes (text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map(([, code]) => code!)
}

function sources (name: string): string {
  const folder = join(root, 'packages', name, 'src')
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
    .map((file) => readFileSync(join(folder, file), 'utf8')).join('\n')
}

test('every error code of the sources is listed in docs/errors.md', () => {
  // A package may speak of another one's codes: these are listed there.
  const all = new Set([...listed.values()].flatMap((ofPackage) => [...ofPackage]))
  const missing = [...used].flatMap(([name, ofPackage]) => [...ofPackage].filter((code) => !all.has(code)).map((code) => `${name}: ${code}`))
  ok([...used.values()].some((ofPackage) => ofPackage.size > 0))
  deepEqual(missing, [], 'add a line to the table of the package in docs/errors.md')
})

test('every error code that docs/errors.md lists is one of its package', () => {
  const stale = [...listed].flatMap(([name, ofPackage]) => [...ofPackage].filter((code) => used.get(name)?.has(code) !== true).map((code) => `${name}: ${code}`))
  ok(listed.size > 0)
  deepEqual(stale, [])
})

test('no error code means two things', () => {
  const all = [...listed.values()].flatMap((ofPackage) => [...ofPackage])
  deepEqual(all.filter((code, index) => all.indexOf(code) !== index), [])
})

test.run()
