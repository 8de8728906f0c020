// Disks that stand on an export of a real NBD server, from plain data and from one line.
import { deepEqual, equal, ok, rejects } from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { closeFakeServers, FakeServer } from '../../nbd/test/support/fake-server.ts'
import { nbdkit, nbdkitTest, qemuNbd, qemuTest } from '../../nbd/test/support/servers.ts'
import { commit } from '../src/overlay-tools.ts'
import { checkSpec, type DiskSpec, open } from '../src/spec.ts'
import { formatDisk, parseDisk } from '../src/text.ts'
import { checkAgainstModel, pattern, read, signal, write } from './support/model.ts'

test.after.each(async () => {
  await closeFakeServers()
  await cleanUp()
})

const MEBIBYTE = 1 << 20

/** Opens it from one line, which says the same as plain data. */
async function openLine (spec: DiskSpec): ReturnType<typeof open> {
  const line = parseDisk(formatDisk(spec))
  deepEqual(line, checkSpec(JSON.parse(JSON.stringify(spec))))
  return open(line)
}

qemuTest('an overlay over an export: the export is never written, until it is committed', async () => {
  const folder = temporaryFolder()
  const [image, file] = [join(folder, 'base.img'), join(folder, 'vm.ovl')]
  const content = pattern(MEBIBYTE, 1)
  writeFileSync(image, content)
  const { uri } = await qemuNbd(['--format=raw', '--export-name=disk', '--discard=unmap', image])
  const spec: DiskSpec = { type: 'overlay', base: { type: 'nbd', uri }, file }
  const disk = await openLine(spec)
  const model = Buffer.from(content)
  await checkAgainstModel(disk, model, 3, 20, 'unknown')
  await disk.close!()

  const base = await open({ type: 'nbd', uri })
  deepEqual(await read(base, 0, MEBIBYTE), content)
  await rejects(open({ type: 'overlay', file }), { code: 'ERR_OVERLAY_BASE' }, 'the file does not keep where an export is')
  await commit({ file, base })
  deepEqual(await read(base, 0, MEBIBYTE), model)
  await base.close!()
})

nbdkitTest('a throttle and encryption over an export: the server sees nothing but noise', async () => {
  const { uri } = await nbdkit(['memory', '2M'])
  const folder = temporaryFolder()
  const keyFile = join(folder, 'key')
  writeFileSync(keyFile, 'secret')
  const spec: DiskSpec = { type: 'throttle', ops: 1e6, disk: { type: 'encrypted', keyFile, format: true, disk: { type: 'nbd', uri, connections: 2 } } }
  const disk = await openLine(spec)
  equal(disk.capacity, 2 * MEBIBYTE - 65536)
  const plain = Buffer.alloc(8192, 'plain text ')
  await write(disk, 4096, plain)
  await disk.flush!(signal)
  await disk.close!()

  const below = await open({ type: 'nbd', uri })
  const bytes = await read(below, 65536 + 4096, 8192)
  ok(!bytes.includes('plain') && bytes.some((byte) => byte !== 0))
  await below.close!()
  const again = await openLine(spec)
  deepEqual(await read(again, 4096, 8192), plain)
  await again.close!()
})

test('where the top cannot be opened, the connection below is ended', async () => {
  const server = await FakeServer.start()
  await rejects(open({ type: 'encrypted', keyFile: '/nowhere', disk: { type: 'nbd', uri: server.uri } }), { code: 'ENOENT' })
  equal(server.connections, 1)
  await eventually('it is ended', () => server.sockets.size === 0)
})

test('an export that is not there, and options that make no sense', async () => {
  await rejects(open({ type: 'nbd', uri: 'nbd+unix:///?socket=/nowhere' }), { code: 'ERR_NBD_CONNECT' })
  await rejects(open(parseDisk('nbd:uri=nbd://localhost,connections=99')), { code: 'ERR_NBD_OPTIONS', message: /connections/ })
  await rejects(open(parseDisk('nbd:uri=nbd://localhost,reconnect=[unflushed=fial]')), { code: 'ERR_NBD_OPTIONS', message: /unflushed: fail or trust, not fial/ })
})

test.run()
