import assert from 'node:assert/strict'
import { test } from 'uvu'
import { OFFERED_PROTOCOL_FEATURES, ProtocolFeature, protocolFeatureNames } from '../src/index.ts'

test('each protocol feature has one bit, in the order of the specification', () => {
  assert.deepEqual(Object.values(ProtocolFeature), Array.from({ length: 23 }, (_, bit) => 1n << BigInt(bit)))
})

test('names are given for a mask, unknown bits by number', () => {
  assert.deepEqual(protocolFeatureNames(ProtocolFeature.CONFIG | 1n << 40n | 1n), ['MQ', 'CONFIG', 'bit 40'])
})

test('nothing is offered that is not served', () => {
  assert.deepEqual(protocolFeatureNames(OFFERED_PROTOCOL_FEATURES),
    ['MQ', 'LOG_SHMFD', 'REPLY_ACK', 'BACKEND_REQ', 'CONFIG', 'INFLIGHT_SHMFD', 'RESET_DEVICE', 'CONFIGURE_MEM_SLOTS', 'STATUS'])
})

test.run()
