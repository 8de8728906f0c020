import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'uvu'

const loader = new URL('../../../tools/ts.mjs', import.meta.url).href
const source = new URL('../src/inlining.ts', import.meta.url).href

/** What a program writes on stderr. */
function told (program: string): string {
  const { status, stderr } = spawnSync(process.execPath, ['--import', loader, '--input-type=module', '-e', program], { encoding: 'utf8', timeout: 60_000 })
  assert.equal(status, 0, stderr)
  return stderr
}

test('V8 knows the flags, and takes them when it is running', () => {
  assert.equal(told(`import { inlineMore } from '${source}'; inlineMore()`), '')
  assert.match(told('import { setFlagsFromString } from "node:v8"; setFlagsFromString("--max-inlined-anything=1")'), /unrecognized flag/)
})

test.run()
