// The table of README.md, held to the truth.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'uvu'

const CASES = 45

const readme = readFileSync(new URL('README.md', import.meta.url), 'utf8')
const rows = [...readme.matchAll(/^\| (\d\d) \| (.*) \|$/gm)].map(([, number, cells]) => ({ number: number!, cells: cells! }))

/** The source of a test, where each title is as it reads. */
function source (path: string): string {
  return readFileSync(new URL(path, import.meta.url), 'utf8').replaceAll("\\'", "'")
}

test('the table has every case once, each with a test', () => {
  assert.deepEqual(rows.map(({ number }) => Number(number)), Array.from({ length: CASES }, (_, index) => index + 1))
  for (const { number, cells } of rows) assert.match(cells, /\]\([^)]+\.test\.ts\): “/, `case ${number} names no test`)
})

test('the files that the table names are there, with tests of these names', () => {
  for (const { number, cells } of rows) {
    // A link, and behind it the titles up to the next link.
    const named = [...cells.matchAll(/\[[^\]]+\]\(([^)]+)\): ((?:“[^”]+”(?:<br>)?)+)/g)]
    assert.equal(named.length, cells.split('](').length - 1, `case ${number} names a file without a title`)
    for (const [, path, titles] of named) {
      const text = source(path!)
      for (const [, title] of titles!.matchAll(/“([^”]+)”/g)) assert.ok(text.includes(title!), `case ${number}: ${path} has no test “${title}”`)
    }
  }
})

test('every test here is in the row of its number', () => {
  for (const name of readdirSync(new URL('.', import.meta.url)).filter((each) => /^\d\d-.*\.test\.ts$/.test(each))) {
    const row = rows.find(({ number }) => name.startsWith(number))
    assert.ok(row?.cells.includes(`(${name})`), `${name} is not in the table`)
  }
})

test.run()
