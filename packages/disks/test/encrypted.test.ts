import { deepEqual, equal, notDeepEqual, ok, rejects, throws } from 'node:assert/strict'
import { createCipheriv, randomBytes } from 'node:crypto'
import { test } from 'uvu'
import { encrypted, formatEncrypted, SectorCipher } from '../src/encrypted.ts'
import { ram } from '../src/ram.ts'
import { checkAgainstModel, pattern, read, signal, write } from './support/model.ts'

const HEADER = 64 << 10
/** Quick: for tests only. */
const cost = 10

async function formatted (sectorSize: number, key: string | Uint8Array = 'secret', capacity = 1 << 20) {
  const below = ram({ capacity })
  await formatEncrypted({ disk: below, key, sectorSize, cost })
  return below
}

// IEEE 1619-2007, annex B, vector 10: XTS-AES-256, data unit 0xff, 512 bytes of 00 01 … ff 00 …
const KEY_10 = '27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592'
const CIPHERTEXT_10 = '1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd' +
  '5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca' +
  '2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f' +
  '93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a' +
  '84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae' +
  '9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac' +
  '6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385' +
  '1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151'

test('the cipher is the one of IEEE 1619', () => {
  const cipher = new SectorCipher(Buffer.from(KEY_10, 'hex'), 512)
  const plain = Buffer.from(Array.from({ length: 512 }, (_, index) => index & 255))
  const bytes = Buffer.from(plain)
  cipher.encrypt(0xff, bytes)
  equal(bytes.toString('hex'), CIPHERTEXT_10)
  cipher.decrypt(0xff, bytes)
  deepEqual(bytes, plain)
})

/** XTS as the standard writes it down, from AES alone. */
function reference (key: Buffer, sector: number, plain: Buffer): Buffer {
  const aes = (part: Buffer, block: Buffer): Buffer => createCipheriv('aes-256-ecb', part, null).setAutoPadding(false).update(block)
  const number = Buffer.alloc(16)
  number.writeBigUInt64LE(BigInt(sector))
  let tweak = aes(key.subarray(32), number)
  const result: Buffer[] = []
  for (let at = 0; at < plain.length; at += 16) {
    const masked = plain.subarray(at, at + 16).map((byte, index) => byte ^ tweak[index]!)
    result.push(Buffer.from(aes(key.subarray(0, 32), Buffer.from(masked)).map((byte, index) => byte ^ tweak[index]!)))
    const carried = tweak.map((byte, index) => byte << 1 | (index === 0 ? 0 : tweak[index - 1]! >> 7))
    if (tweak[15]! >> 7 === 1) carried[0]! ^= 0x87
    tweak = Buffer.from(carried)
  }
  return Buffer.concat(result)
}

test('sectors have their numbers, of any size and beyond 32 bits', () => {
  for (const sectorSize of [512, 4096]) {
    for (const sector of [0, 1, 2 ** 32 - 1, 2 ** 40 + 5]) {
      const key = randomBytes(64)
      const plain = randomBytes(sectorSize * 3)
      const bytes = Buffer.from(plain)
      new SectorCipher(Buffer.from(key), sectorSize).encrypt(sector, bytes)
      deepEqual(bytes, Buffer.concat([0, 1, 2].map((index) => reference(key, sector + index, plain.subarray(index * sectorSize, (index + 1) * sectorSize)))))
    }
  }
})

for (const sectorSize of [512, 4096]) {
  test(`what is written is read, opened again too, in sectors of ${sectorSize} bytes`, async () => {
    const below = await formatted(sectorSize)
    const { close: _, ...shared } = below
    const disk = await encrypted({ disk: shared, key: 'secret' })
    equal(disk.capacity, (1 << 20) - HEADER)
    equal(disk.blockSize, sectorSize)
    const model = Buffer.from(await read(disk, 0, disk.capacity))
    await checkAgainstModel(disk, model, sectorSize, 20)
    await disk.close!()
    const again = await encrypted({ disk: shared, key: Buffer.from('secret') })
    deepEqual(await read(again, 0, again.capacity), model)
  })
}

test('the disk below has none of it', async () => {
  const below = await formatted(512)
  const disk = await encrypted({ disk: below, key: 'secret' })
  const bytes = Buffer.alloc(8192, 'plain text ')
  await write(disk, 0, bytes)
  const stored = await read(below, HEADER, 8192)
  equal(stored.includes('plain'), false)
  const sectors = new Set(Array.from({ length: 16 }, (_, index) => stored.toString('hex', index * 512, (index + 1) * 512)))
  equal(sectors.size, 16, 'equal sectors are not equal on the disk')
})

test('two disks with one passphrase have different keys', async () => {
  const stored = await Promise.all([1, 2].map(async () => {
    const below = await formatted(512)
    await write(await encrypted({ disk: below, key: 'secret' }), 0, Buffer.alloc(512))
    return read(below, HEADER, 512)
  }))
  notDeepEqual(stored[0], stored[1])
})

test('the guest\'s memory is not changed by a write', async () => {
  const disk = await encrypted({ disk: await formatted(512), key: 'secret' })
  const bytes = pattern(1024, 1)
  const copy = Buffer.from(bytes)
  await write(disk, 0, bytes)
  deepEqual(bytes, copy)
})

test('a wrong key, an empty key and a changed header are refused', async () => {
  const below = await formatted(512, 'secret')
  await rejects(encrypted({ disk: below, key: 'Secret' }), { code: 'ERR_ENCRYPTED_KEY', message: /does not open/ })
  await rejects(encrypted({ disk: below, key: '' }), { code: 'ERR_ENCRYPTED_KEY' })
  for (const [position, code] of [[0, 'ERR_ENCRYPTED'], [16, 'ERR_ENCRYPTED'], [21, 'ERR_ENCRYPTED'], [24, 'ERR_ENCRYPTED'], [40, 'ERR_ENCRYPTED_KEY'], [70, 'ERR_ENCRYPTED_KEY'], [100, 'ERR_ENCRYPTED_KEY'], [150, 'ERR_ENCRYPTED_KEY']] as const) {
    const header = await read(below, 0, HEADER)
    const changed = Buffer.from(header)
    changed[position]! ^= 0x40
    await write(below, 0, changed)
    await rejects(encrypted({ disk: below, key: 'secret' }), { code }, `byte ${position}`)
    await write(below, 0, header)
  }
  await encrypted({ disk: below, key: 'secret' })
})

test('no error says the key', async () => {
  const below = await formatted(512, 'secret')
  const error = await encrypted({ disk: below, key: 'hunter2' }).catch((error: unknown) => error)
  ok(!`${(error as Error).stack}${JSON.stringify(error)}`.includes('hunter2'))
})

test('a blank disk is formatted where that is asked for, nothing else is', async () => {
  const below = ram({ capacity: 1 << 20 })
  await rejects(encrypted({ disk: below, key: 'secret' }), { code: 'ERR_ENCRYPTED', message: /not encrypted/ })
  const { close: _, ...shared } = below
  const disk = await encrypted({ disk: shared, key: 'secret', format: true })
  await write(disk, 0, pattern(4096, 1))
  await disk.close!()
  const again = await encrypted({ disk: shared, key: 'secret', format: true })
  deepEqual(await read(again, 0, 4096), pattern(4096, 1))
  const used = ram({ capacity: 1 << 20 })
  await write(used, 32 << 10, pattern(512, 2))
  await rejects(encrypted({ disk: used, key: 'secret', format: true }), { code: 'ERR_ENCRYPTED' })
})

test('discards are passed on where that is asked for only, and zeroes never come without encryption', async () => {
  const below = await formatted(512)
  const { close: _, ...shared } = below
  const silent = await encrypted({ disk: shared, key: 'secret' })
  deepEqual([silent.discard, silent.writeZeroes], [undefined, undefined])
  const disk = await encrypted({ disk: shared, key: 'secret', discards: true })
  await write(disk, 4096, pattern(4096, 1))
  await disk.discard!(4096, 4096, signal)
  deepEqual(await read(below, HEADER + 4096, 4096), Buffer.alloc(4096))
})

test('a closed disk has no key any more', async () => {
  const key = randomBytes(64)
  const cipher = new SectorCipher(key, 512)
  cipher.close()
  deepEqual(key, Buffer.alloc(64))
  throws(() => cipher.encrypt(0, Buffer.alloc(512)), { code: 'ERR_ENCRYPTED_KEY' })
  const disk = await encrypted({ disk: await formatted(512), key: 'secret' })
  await disk.close!()
  await rejects(write(disk, 0, Buffer.alloc(512)), { code: 'ERR_ENCRYPTED_KEY' })
})

test('what cannot be formatted is refused', async () => {
  await rejects(formatEncrypted({ disk: ram({ capacity: HEADER }), key: 'x' }), { code: 'ERR_DISK_OPTION' })
  await rejects(formatEncrypted({ disk: ram({ capacity: 1 << 20 }), key: 'x', sectorSize: 1000 }), { code: 'ERR_DISK_OPTION' })
  await rejects(formatEncrypted({ disk: ram({ capacity: 1 << 20, blockSize: 4096 }), key: 'x', sectorSize: 512 }), { code: 'ERR_DISK_OPTION' })
  await rejects(formatEncrypted({ disk: ram({ capacity: 1 << 20 }), key: 'x', cost: 30 }), { code: 'ERR_DISK_OPTION' })
  await rejects(formatEncrypted({ disk: { ...ram({ capacity: 1 << 20 }), readOnly: true }, key: 'x' }), { code: 'ERR_DISK_OPTION' })
  await rejects(encrypted({ disk: ram({ capacity: 512 }), key: 'x' }), { code: 'ERR_ENCRYPTED' })
})

test('a signal ends an attempt to format or to open', async () => {
  const reason = new Error('enough')
  const aborted = AbortSignal.abort(reason)
  const below = ram({ capacity: 1 << 20 })
  await rejects(formatEncrypted({ disk: below, key: 'secret', cost, signal: aborted }), reason)
  const formatting = new AbortController()
  const attempt = rejects(formatEncrypted({ disk: below, key: 'secret', cost, signal: formatting.signal }), reason)
  formatting.abort(reason)
  await attempt
  ok((await read(below, 0, HEADER)).every((byte) => byte === 0))

  await formatEncrypted({ disk: below, key: 'secret', cost })
  await rejects(encrypted({ disk: below, key: 'secret', signal: aborted }), reason)
  const opening = new AbortController()
  const opened = rejects(encrypted({ disk: below, key: 'secret', signal: opening.signal }), reason)
  opening.abort(reason)
  await opened
  await (await encrypted({ disk: below, key: 'secret' })).close!()
})

test.run()
