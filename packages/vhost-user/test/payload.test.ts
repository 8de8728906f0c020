import assert from 'node:assert/strict'
import { test } from 'uvu'
import {
  decodeConfig, decodeInflight, decodeLog, decodeMemoryTable, decodeNothing, decodeRegion, decodeU64, decodeVringAddress,
  decodeVringDescriptor, decodeVringState, encodeConfig, encodeInflight, encodeLog, encodeMemoryTable, encodeRegion, encodeU64,
  encodeVringAddress, encodeVringDescriptor, encodeVringState
} from '../src/index.ts'

const region = { guestAddress: 0x100000, size: 0x2000, userAddress: 0x7f0000100000, offset: 0x60c20000 }
const refusal = { code: 'ERR_VHOST_USER_REFUSED' }

test('the used ring stands before the available one in a vring address', () => {
  const bytes = encodeVringAddress({ index: 3, flags: 1, descriptor: 0x1000, available: 0x2000, used: 0x3000, log: 0xffffffffffffffffn })
  assert.equal(Buffer.from(bytes).toString('hex'),
    '0300000001000000' + '0010000000000000' + '0030000000000000' + '0020000000000000' + 'ffffffffffffffff')
  // User-Mode Linux sends a log address of all ones: it is no address of ours and must not be refused as one.
  assert.equal(decodeVringAddress(bytes).log, 0xffffffffffffffffn)
  assert.equal(decodeVringAddress(bytes).available, 0x2000)
})

test('what is encoded is decoded', () => {
  assert.equal(decodeU64(encodeU64(1n << 63n)), 1n << 63n)
  assert.deepEqual(decodeVringState(encodeVringState({ index: 1, num: 0xffffffff })), { index: 1, num: 0xffffffff })
  assert.deepEqual(decodeRegion(encodeRegion(region)), region)
  assert.deepEqual(decodeMemoryTable(encodeMemoryTable([region, region])), [region, region])
  const range = { offset: 32, size: 2, flags: 1, data: Uint8Array.of(1, 2) }
  assert.deepEqual(decodeConfig(encodeConfig(range)), range)
  for (const hasFd of [true, false]) assert.deepEqual(decodeVringDescriptor(encodeVringDescriptor({ index: 255, hasFd })), { index: 255, hasFd })
})

test('a table may bring room for more regions than it has, as User-Mode Linux does', () => {
  const bytes = new Uint8Array(8 + 2 * 32)
  bytes.set(encodeMemoryTable([region]))
  assert.deepEqual(decodeMemoryTable(bytes), [region])
})

test('an in-flight description has 24 bytes as a C structure has it, or 20', () => {
  const region = { size: 0x1080, offset: 0x40, queues: 2, queueSize: 128 }
  const fields = '8010000000000000' + '4000000000000000' + '0200' + '8000'
  assert.equal(Buffer.from(encodeInflight(region)).toString('hex'), fields + '00000000')
  assert.equal(Buffer.from(encodeInflight(region, 20)).toString('hex'), fields)
  for (const length of [20, 24]) assert.deepEqual(decodeInflight(encodeInflight(region, length)), region)
  for (const length of [0, 19, 21, 23, 25]) assert.throws(() => decodeInflight(new Uint8Array(length)), refusal)
})

test('a log description is a size and an offset', () => {
  const bytes = encodeLog({ size: 0x8002, offset: 0x1000 })
  assert.equal(Buffer.from(bytes).toString('hex'), '0280000000000000' + '0010000000000000')
  assert.deepEqual(decodeLog(bytes), { size: 0x8002, offset: 0x1000 })
  for (const length of [0, 8, 15, 17]) assert.throws(() => decodeLog(new Uint8Array(length)), refusal)
})

test('sizes are checked', () => {
  assert.throws(() => decodeNothing(new Uint8Array(1)), refusal)
  for (const decode of [decodeU64, decodeVringState, decodeVringDescriptor, decodeVringAddress, decodeRegion, decodeMemoryTable, decodeConfig]) {
    for (const size of [0, 7, 9, 41]) assert.throws(() => decode(new Uint8Array(size)), refusal, `${decode.name} of ${size}`)
  }
  assert.throws(() => decodeMemoryTable(encodeMemoryTable([region, region]).subarray(0, -1)), refusal)
  assert.throws(() => decodeMemoryTable(encodeMemoryTable(Array.from({ length: 33 }, () => region))), /32 are taken/)
  const lying = encodeMemoryTable([region])
  lying[0] = 2
  assert.throws(() => decodeMemoryTable(lying), refusal)
})

test('addresses are exact: 2^53 and above are refused', () => {
  const bytes = encodeRegion(region)
  new DataView(bytes.buffer).setBigUint64(8, 1n << 53n, true)
  assert.throws(() => decodeRegion(bytes), /beyond any address/)
})

test('a range of the configuration space lies in its 256 bytes and has all its own', () => {
  const range = (offset: number, size: number): Uint8Array => encodeConfig({ offset, size, flags: 0, data: new Uint8Array(size) })
  assert.equal(decodeConfig(range(0, 256)).size, 256)
  assert.equal(decodeConfig(range(255, 1)).offset, 255)
  for (const [offset, size] of [[0, 0], [0, 257], [256, 1], [0xffffffff, 1]] as const) assert.throws(() => decodeConfig(range(offset, size)), refusal)
  assert.throws(() => decodeConfig(range(0, 8).subarray(0, 19)), refusal)
})

test('a ring index in 64 bits has nothing but itself and the no-descriptor flag', () => {
  assert.throws(() => decodeVringDescriptor(encodeU64(0x200n)), refusal)
})

test.run()
