import assert from 'node:assert/strict'
import { test } from 'uvu'
import { checkSandboxed, parseSpec } from '../src/disk-spec.ts'

test('a stack of disks, in one line or as JSON, is checked', () => {
  const module = import.meta.resolve('@node-vmm/disks')
  const spec = { type: 'throttle', ops: { size: 1000 }, disk: { type: 'raw', path: 'base.raw' } }
  assert.deepEqual(parseSpec('throttle:ops=1000,disk=base.raw'), { module, options: spec })
  assert.deepEqual(parseSpec(JSON.stringify(spec)), { module, options: spec })
  for (const wrong of ['floppy:x=1', 'ram:', '{"type":"ram"}', '{']) assert.throws(() => parseSpec(wrong), { code: 'ERR_USAGE', message: /^--disk: / })
})

test('an NBD export is a URI', () => {
  const module = import.meta.resolve('@node-vmm/nbd')
  for (const uri of ['nbd://storage.example/guest', 'nbd+unix:///?socket=/run/nbd.sock', 'nbds://storage.example']) {
    assert.deepEqual(parseSpec(uri), { module, options: uri })
    assert.throws(() => checkSandboxed(uri), { code: 'ERR_USAGE', message: /no way to connect anew/ })
  }
  assert.throws(() => parseSpec('nbd://storage.example:port'), { code: 'ERR_USAGE' })
  checkSandboxed('ram:capacity=1M')
})

test.run()
