import assert from 'node:assert/strict'
import { test } from 'uvu'
import { checkSandboxed, parseSpec } from '../src/disk-spec.ts'

const module = import.meta.resolve('@node-vmm/disks')

test('a stack of disks, in one line or as JSON, is checked', () => {
  const spec = { type: 'throttle', ops: { size: 1000 }, disk: { type: 'raw', path: 'base.raw' } }
  assert.deepEqual(parseSpec('throttle:ops=1000,disk=base.raw'), { module, options: spec })
  assert.deepEqual(parseSpec(JSON.stringify(spec)), { module, options: spec })
  for (const wrong of ['floppy:x=1', 'ram:', '{"type":"ram"}', '{', 'nbd://storage.example:port']) {
    assert.throws(() => parseSpec(wrong), { code: 'ERR_USAGE', message: /^--disk: / })
  }
})

test('an NBD export is a URI', () => {
  for (const uri of ['nbd://storage.example/guest', 'nbd+unix:///?socket=/run/nbd.sock', 'nbds://[::1]/a,b']) {
    assert.deepEqual(parseSpec(uri), { module, options: { type: 'nbd', uri } })
  }
})

test('a sandbox has no NBD, wherever in a stack', () => {
  for (const spec of ['nbd://storage.example', 'throttle:ops=1,disk=nbd://storage.example', '{"type":"overlay","file":"f","base":{"type":"faulty","rules":[],"disk":{"type":"nbd","uri":"nbd://h"}}}']) {
    assert.throws(() => checkSandboxed(parseSpec(spec).options!), { code: 'ERR_USAGE', message: /no way to connect anew/ })
  }
  for (const spec of ['ram:capacity=1M', 'overlay:file=f', 'throttle:ops=1,disk=[overlay:base=b,file=f]']) checkSandboxed(parseSpec(spec).options!)
})

test.run()
