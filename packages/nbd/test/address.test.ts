import assert from 'node:assert/strict'
import { test } from 'uvu'
import { resolveAddress } from '../src/address.ts'
import { parseNbdUri } from '../src/index.ts'

test('the examples of the URI specification are understood', () => {
  const names: Record<string, string> = {
    'nbd://example.com/disk': 'disk',
    'nbd+unix:///disk?socket=sock': 'disk',
    'nbd://example.com/': '',
    'nbd://example.com': '',
    'nbd://example.com//disk': '/disk',
    'nbd://example.com/hello%20world': 'hello world',
    'nbd://example.com/../%C3%A9+': '../é+'
  }
  for (const [uri, name] of Object.entries(names)) assert.equal(parseNbdUri(uri).exportName, name, uri)
})

test('host, port and socket are found', () => {
  assert.deepEqual(parseNbdUri('nbd://example.com:10810/x'), { exportName: 'x', host: 'example.com', port: 10810 })
  assert.deepEqual(parseNbdUri('nbd://[::1]:1/'), { exportName: '', host: '::1', port: 1 })
  assert.deepEqual(parseNbdUri('NBD://'), { exportName: '' })
  assert.deepEqual(parseNbdUri('nbd+unix:///?socket=%00/abstract'), { exportName: '', socketPath: '\0/abstract' })
  assert.deepEqual(resolveAddress({ uri: 'nbd://' }).connect, { host: 'localhost', port: 10809 })
  assert.deepEqual(resolveAddress({ uri: 'nbd://a:1/x', port: 2 }).connect, { host: 'a', port: 2 })
})

test('parameters for encryption are understood where the scheme has it', () => {
  assert.deepEqual(parseNbdUri('nbds://h/?tls-verify-peer=0&tls-type=x509').tls, { verifyPeer: false })
  assert.deepEqual(resolveAddress({ uri: 'nbds://h/?tls-hostname=other' }).tls, { hostname: 'other' })
  assert.deepEqual(resolveAddress({ uri: 'nbds://h/', tls: true }).tls, { hostname: 'h' })
  assert.deepEqual(resolveAddress({ uri: 'nbds+unix:///?socket=s', tls: { ca: 'PEM' } }).tls, { hostname: 'localhost', ca: 'PEM' })
  assert.equal(resolveAddress({ uri: 'nbd://h/' }).tls, undefined)
})

const refused = [
  'http://example.com/', 'nbd:/x', 'nbd://user@example.com/', 'nbd://a:b/', 'nbd://a:99999/', 'nbd+unix:///x', 'nbd://h/%zz',
  'nbd://h/?unknown=1', 'nbd://h/?tls-hostname=x', 'nbds://h/?tls-type=psk', 'nbd+vsock://2/', `nbd://h/${'x'.repeat(4097)}`,
  'nbd://h/a%00b', 'nbds://h/?tls-certificates=/nonexistent'
]
for (const uri of refused) {
  test(`${uri.slice(0, 40)} is refused`, () => {
    assert.throws(() => resolveAddress({ uri }), { code: 'ERR_NBD_OPTIONS' })
  })
}

test('an encrypted URI cannot be had in the clear', () => {
  assert.throws(() => resolveAddress({ uri: 'nbds://h/', tls: false }), { code: 'ERR_NBD_OPTIONS' })
})

test.run()
