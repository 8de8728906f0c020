import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { landlockVersion, restrictToReading } from '@node-vmm/libc'
import { runScript } from './support/run-script.ts'

const test = suite('landlock')
const folder = mkdtempSync(join(tmpdir(), 'landlock-'))
test.after(() => rmSync(folder, { recursive: true }))

const isHere = landlockVersion() > 0

test('without Landlock the error says what it takes', () => {
  if (isHere) return console.log(`note: Landlock is here, version ${landlockVersion()}`)
  assert.throws(() => restrictToReading([]), { name: 'LinuxError', syscall: 'landlock_create_ruleset', message: /lsm=/ })
})

test('paths: what is named can be read, nothing else can be, nothing can be written; what is open stays so', () => {
  if (!isHere) return console.log('skipped: no Landlock here')
  mkdirSync(join(folder, 'inside'))
  writeFileSync(join(folder, 'inside', 'a'), 'a')
  writeFileSync(join(folder, 'named'), 'named')
  writeFileSync(join(folder, 'outside'), 'outside')
  const { threads, ...seen } = runScript(`
    import { openSync, readFileSync, readdirSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
    import { Worker } from 'node:worker_threads'
    import { restrictToReading, setNoNewPrivileges } from '@node-vmm/libc'
    process.chdir(${JSON.stringify(folder)})
    const attempt = (action) => { try { return String(action()) } catch (error) { return error.code } }
    const open = openSync('outside', 'r+')
    setNoNewPrivileges()
    const threads = restrictToReading(['inside', 'named'])
    const result = {
      threads,
      inside: attempt(() => readFileSync('inside/a', 'utf8')),
      list: attempt(() => readdirSync('inside')),
      named: attempt(() => readFileSync('named', 'utf8')),
      outside: attempt(() => readFileSync('outside', 'utf8')),
      written: attempt(() => writeFileSync('inside/a', 'b')),
      made: attempt(() => writeFileSync('inside/b', 'b')),
      removed: attempt(() => unlinkSync('inside/a')),
      open: attempt(() => writeSync(open, 'o'))
    }
    const worker = new Worker("require('node:worker_threads').parentPort.postMessage((() => { try { return require('node:fs').readFileSync('outside', 'utf8') } catch (error) { return error.code } })())", { eval: true, execArgv: [] })
    worker.once('message', (worker) => console.log(JSON.stringify({ ...result, worker })))
  `)
  assert.equal(threads, landlockVersion() < 8 ? 'new' : 'all')
  assert.deepEqual(seen, {
    inside: 'a', list: 'a', named: 'named', outside: 'EACCES', written: 'EACCES', made: 'EACCES', removed: 'EACCES', open: '1', worker: 'EACCES'
  })
})

test('a path that is not there is an error', () => {
  if (!isHere) return console.log('skipped: no Landlock here')
  assert.throws(() => restrictToReading([join(folder, 'nowhere')]), { code: 'ENOENT' })
})

test.run()
