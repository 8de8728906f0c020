import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { hasNoNewPrivileges, isDumpable } from '@node-vmm/libc'
import { runScript } from './support/run-script.ts'

const test = suite('privileges')

test('no_new_privs is set for good, and inherited', () => {
  const { before, after, child } = runScript(`
    import { spawnSync } from 'node:child_process'
    import { hasNoNewPrivileges, setNoNewPrivileges } from '@node-vmm/libc'
    const before = hasNoNewPrivileges()
    setNoNewPrivileges()
    const child = spawnSync('grep', ['NoNewPrivs', '/proc/self/status'], { encoding: 'utf8' }).stdout
    console.log(JSON.stringify({ before, after: hasNoNewPrivileges(), child }))
  `)
  assert.deepEqual([before, after, child], [hasNoNewPrivileges(), true, 'NoNewPrivs:\t1\n'])
})

test('a process may be made to leave no core dump', () => {
  const states = runScript(`
    import { isDumpable, setDumpable } from '@node-vmm/libc'
    const states = [isDumpable()]
    for (const state of [false, true]) {
      setDumpable(state)
      states.push(isDumpable())
    }
    console.log(JSON.stringify(states))
  `)
  assert.deepEqual(states, [isDumpable(), false, true])
})

test('capabilities are given up by the calling thread and those after it, in all sets that it may change', () => {
  const { main, worker, mayDrop } = runScript(`
    import { readFileSync } from 'node:fs'
    import { Worker } from 'node:worker_threads'
    import { dropCapabilities } from '@node-vmm/libc'
    const sets = () => Object.fromEntries([...readFileSync('/proc/thread-self/status', 'utf8').matchAll(/^Cap(\\w+):\\t(\\w+)/gm)].map(([, name, set]) => [name, BigInt('0x' + set).toString()]))
    const mayDrop = (BigInt(sets().Eff) >> 8n & 1n) === 1n
    dropCapabilities()
    const worker = new Worker("require('node:worker_threads').parentPort.postMessage((" + sets.toString().replace('readFileSync', "require('node:fs').readFileSync") + ')())', { eval: true, execArgv: [] })
    worker.once('message', (message) => console.log(JSON.stringify({ main: sets(), worker: message, mayDrop })))
  `)
  for (const sets of [main, worker]) {
    for (const set of ['Inh', 'Prm', 'Eff', 'Amb', ...(mayDrop ? ['Bnd'] : [])]) assert.equal(sets[set], '0', set)
  }
})

test.run()
