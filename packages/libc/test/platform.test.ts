import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { suite } from 'uvu'
import { platform } from '@node-vmm/libc'

const test = suite('platform')

test('knows the layouts of x64 and arm64', () => {
  assert.deepEqual({ ...platform('linux', 'x64'), syscalls: undefined }, { epollEventBytes: 12, epollDataOffset: 4, syscalls: undefined })
  assert.deepEqual({ ...platform('linux', 'arm64'), syscalls: undefined }, { epollEventBytes: 16, epollDataOffset: 8, syscalls: undefined })
  assert.equal(platform('linux', 'x64').syscalls.ioSubmit, 209)
  assert.equal(platform('linux', 'arm64').syscalls.ioSubmit, 2)
})

test('refuses the others', () => {
  for (const [os, arch] of [['darwin', 'arm64'], ['win32', 'x64'], ['linux', 'riscv64']] as const) {
    assert.throws(() => platform(os, arch), { name: 'UnsupportedPlatformError', code: 'ERR_UNSUPPORTED_PLATFORM' })
  }
})

test('on another platform the package can be imported, and its first call says why not', () => {
  const script = `
    Object.defineProperty(process, 'platform', { value: 'darwin' })
    const { eventfd } = await import('@node-vmm/libc')
    try { eventfd() } catch (error) { console.log(error.code) }
  `
  const { stdout, stderr } = spawnSync(process.execPath, [...process.execArgv, '--input-type=module', '-e', script],
    { cwd: new URL('..', import.meta.url), encoding: 'utf8', timeout: 60_000 })
  assert.equal(stdout, 'ERR_UNSUPPORTED_PLATFORM\n', stderr)
})

test('importing the package does not load the native library', () => {
  const script = `
    await import('@node-vmm/libc')
    const { readFileSync } = await import('node:fs')
    console.log(/koffi\\.node/.test(readFileSync('/proc/self/maps', 'utf8')))
  `
  const { stdout, stderr } = spawnSync(process.execPath, [...process.execArgv, '--input-type=module', '-e', script],
    { cwd: new URL('..', import.meta.url), encoding: 'utf8', timeout: 60_000 })
  assert.equal(stdout, 'false\n', stderr)
})

test.run()
