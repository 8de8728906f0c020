import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'

const loader = fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url))
const libc = new URL('../src/index.ts', import.meta.url).href

test('exitNow ends the process with its status, no handler runs, and no thread is waited for', () => {
  const script = `
    import { exitNow } from '${libc}'
    import { Worker } from 'node:worker_threads'
    process.on('exit', () => console.log('a handler'))
    const worker = new Worker("require('node:worker_threads').parentPort.postMessage('in'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)", { eval: true, execArgv: [] })
    worker.once('message', () => exitNow(7))`
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', loader, '--input-type=module', '--eval', script], { encoding: 'utf8', timeout: 60_000 })
  assert.deepEqual({ status, stdout, stderr }, { status: 7, stdout: '', stderr: '' })
})

test.run()
