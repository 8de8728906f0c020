import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { test } from 'uvu'
import { ask } from '../src/control-client.ts'
import { newPath } from './support/scratch.ts'

test('a signal ends the wait for an answer', async () => {
  const path = newPath()
  const reason = new Error('enough')
  const abort = new AbortController()
  let hungUp = (): void => {}
  const gone = new Promise<void>((resolve) => { hungUp = resolve })
  const silent = createServer((client) => client.on('close', hungUp).on('error', () => {}).once('data', () => abort.abort(reason)))
  await new Promise<void>((resolve) => silent.listen(path, resolve))
  await assert.rejects(ask(path, { command: 'status' }, { signal: abort.signal }), reason)
  await gone
  await assert.rejects(ask(path, { command: 'status' }, { signal: abort.signal }), reason)
  await new Promise((resolve) => silent.close(resolve))
  assert.equal(existsSync(path), false)
})

test('nobody listens: it says so, with a signal and without', async () => {
  for (const options of [{}, { signal: new AbortController().signal }]) {
    await assert.rejects(ask(newPath(), { command: 'status' }, options), { code: 'ERR_CONTROL', message: /Is a server running/ })
  }
})

test.run()
