import assert from 'node:assert/strict'
import { test } from 'uvu'
import {
  backEndRequestName, decodeHeader, encodeMessage, FLAG_NEED_REPLY, FLAG_REPLY, FrontEndRequest, frontEndRequestName,
  hasOwnReply, PAYLOAD_BYTES_MAX, VhostUserError
} from '../src/index.ts'

test('a message is request, flags and size, little-endian, then its payload', () => {
  const bytes = encodeMessage(FrontEndRequest.SET_VRING_NUM, FLAG_NEED_REPLY, Uint8Array.of(7, 8))
  assert.deepEqual([...bytes], [8, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 7, 8])
  assert.deepEqual(decodeHeader(bytes), { request: 8, isReply: false, needsReply: true, size: 2 })
})

test('a reply has flags 0x5 exactly', () => {
  assert.equal(encodeMessage(1, FLAG_REPLY, new Uint8Array(0))[4], 5)
})

test('a foreign version and a payload beyond the limit cannot be followed', () => {
  for (const version of [0, 2, 3]) {
    const bytes = encodeMessage(1, 0, new Uint8Array(0))
    bytes[4] = version
    assert.throws(() => decodeHeader(bytes), { code: 'ERR_VHOST_USER_PROTOCOL' })
  }
  assert.equal(decodeHeader(encodeMessage(1, 0, new Uint8Array(PAYLOAD_BYTES_MAX))).size, 4096)
  assert.throws(() => decodeHeader(encodeMessage(1, 0, new Uint8Array(PAYLOAD_BYTES_MAX + 1))), VhostUserError)
})

test('each request has one name; unknown ones have their number', () => {
  const codes = Object.values(FrontEndRequest)
  assert.equal(new Set(codes).size, codes.length)
  assert.deepEqual(codes, Array.from({ length: 44 }, (_, index) => index + 1))
  assert.equal(frontEndRequestName(38), 'REM_MEM_REG')
  assert.equal(frontEndRequestName(99), 'request 99')
  assert.equal(backEndRequestName(2), 'CONFIG_CHANGE')
})

test('requests with a reply of their own are known', () => {
  assert.equal(hasOwnReply(FrontEndRequest.GET_VRING_BASE), true)
  assert.equal(hasOwnReply(FrontEndRequest.SET_MEM_TABLE), false)
})

test.run()
