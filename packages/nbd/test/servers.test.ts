// Against the servers that people use.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { path, programs, testWith } from '../../../test/support/programs.ts'
import { cleanUp, temporaryFolder } from '../../../test/support/temporary.ts'
import { NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_SEND_FLUSH, NBD_FLAG_SEND_FUA, NBD_FLAG_SEND_TRIM, NbdClient } from '../src/index.ts'
import { nbdkit, nbdkitOnTcp, nbdkitTest, qemuNbd, qemuTest } from './support/servers.ts'

test.after.each(cleanUp)

function file (bytes: number): string {
  const name = join(temporaryFolder(), 'raw')
  writeFileSync(name, '')
  truncateSync(name, bytes)
  return name
}

/** Each command, on a disk of at least 16 MiB. */
async function useAll (client: NbdClient): Promise<void> {
  const data = Buffer.alloc(9 << 20)
  for (let at = 0; at < data.length; at += 4) data.writeUInt32LE(at, at)
  await client.write(4096, data, { fua: true })
  assert.ok(Buffer.from(await client.read(4096, data.length)).equals(data))
  await client.writeZeroes(8192, 5 << 20)
  await client.writeZeroes(6 << 20, 4096, { noHole: true, fua: true })
  await client.trim(15 << 20, 1 << 20)
  await client.flush()
  data.fill(0, 4096, 4096 + (5 << 20))
  data.fill(0, (6 << 20) - 4096, 6 << 20)
  assert.ok(Buffer.from(await client.read(4096, data.length)).equals(data))
  assert.ok((await client.read(0, 4096)).every((byte) => byte === 0))
}

nbdkitTest('nbdkit: memory, over a unix socket and TCP, with one connection and four', async () => {
  const local = await nbdkit(['memory', '16M'])
  const remote = await nbdkitOnTcp(['memory', '16M'])
  for (const { uri } of [local, remote]) {
    for (const connections of [1, 4]) {
      const client = await NbdClient.connect({ uri, connections })
      assert.ok((client.flags & NBD_FLAG_CAN_MULTI_CONN) !== 0)
      assert.equal(client.connections, connections)
      assert.equal(client.size, 16 << 20)
      assert.equal(client.info.structuredReplies, true)
      await useAll(client)
      await client.close()
    }
  }
})

nbdkitTest('nbdkit: simple replies', async () => {
  const { uri } = await nbdkit(['--no-sr', 'memory', '16M'])
  const client = await NbdClient.connect(uri)
  assert.equal(client.info.structuredReplies, false)
  await useAll(client)
  await client.close()
})

nbdkitTest('nbdkit: a file, with replies delayed', async () => {
  const { uri } = await nbdkit(['--filter=delay', 'file', file(16 << 20), 'rdelay=5ms'])
  const client = await NbdClient.connect(uri)
  await useAll(client)
  await client.close()
})

nbdkitTest('nbdkit: its errors, with its words', async () => {
  const { uri } = await nbdkit(['--filter=error', 'memory', '1M', 'error-pread=ENOSPC', 'error-pwrite=EPERM', 'error-rate=100%'])
  const client = await NbdClient.connect(uri)
  await assert.rejects(client.read(0, 512), { code: 'ENOSPC' })
  await assert.rejects(client.write(0, new Uint8Array(512)), { code: 'EPERM' })
  await assert.rejects(client.trim(0, 512))
  await client.close()
})

nbdkitTest('nbdkit: what it is told not to offer', async () => {
  const readOnly = await NbdClient.connect((await nbdkit(['--readonly', 'memory', '1M'])).uri)
  assert.equal(readOnly.readOnly, true)
  await assert.rejects(readOnly.write(0, new Uint8Array(512)), { code: 'ERR_NBD_READ_ONLY' })
  await readOnly.close()
  // A plugin of reads and writes only.
  const server = await nbdkit(['eval', 'get_size=echo 1M', 'pread=head -c $3 /dev/zero', 'pwrite=cat > /dev/null'])
  const bare = await NbdClient.connect(server.uri)
  assert.equal(bare.flags & (NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM), 0)
  await bare.write(0, new Uint8Array(512), { fua: true })
  await bare.flush()
  await assert.rejects(bare.trim(0, 512), { code: 'ENOTSUP' })
  await bare.close()
  // Killed, the plugin would leave its folder in /tmp.
  server.process.signal('SIGTERM')
  await server.process.ended(60)
})

nbdkitTest('nbdkit: block sizes are kept to', async () => {
  const { uri } = await nbdkit([
    '--filter=blocksize-policy', 'memory', '16M', 'blocksize-minimum=4K', 'blocksize-preferred=64K', 'blocksize-maximum=64K', 'blocksize-error-policy=error'
  ])
  const client = await NbdClient.connect(uri)
  assert.deepEqual(client.info.blockSize, { minimum: 4096, preferred: 65536, maximum: 65536 })
  await assert.rejects(client.read(512, 4096), { code: 'ERR_NBD_RANGE' })
  await useAll(client)
  await client.close()
})

nbdkitTest('nbdkit: descriptions, lists, and exports that are not there', async () => {
  const { uri } = await nbdkit([
    '--filter=exportname', 'memory', '1M', 'exportname=one', 'exportname=two', 'exportdesc=fixed:a disk', 'exportname-list=explicit', 'exportname-strict=true', 'default-export=one'
  ])
  assert.deepEqual(await NbdClient.list(uri), [{ name: 'one', description: 'a disk' }, { name: 'two', description: 'a disk' }])
  const client = await NbdClient.connect({ uri, exportName: 'two' })
  assert.equal(client.info.description, 'a disk')
  await client.close()
  await assert.rejects(NbdClient.connect({ uri, exportName: 'three' }), { code: 'ERR_NBD_REFUSED' })
})

qemuTest('qemu-nbd: raw and qcow2', async () => {
  const raw = await qemuNbd(['--format=raw', '--export-name=disk', '--description=words', file(16 << 20)])
  const image = join(temporaryFolder(), 'qcow2')
  execFileSync(path('qemu-img'), ['create', '-q', '-f', 'qcow2', image, '16M'])
  const qcow2 = await qemuNbd(['--format=qcow2', '--export-name=disk', image])
  for (const { uri } of [raw, qcow2]) {
    const client = await NbdClient.connect(uri)
    await useAll(client)
    await client.close()
  }
  assert.deepEqual(await NbdClient.list(raw.uri), [{ name: 'disk', description: 'words' }])
  await assert.rejects(NbdClient.connect({ uri: raw.uri, exportName: 'other' }), { code: 'ERR_NBD_REFUSED', message: /"other" cannot be had/ })
})

/** A certificate authority and a server's certificate, as nbdkit reads them from a folder. */
function certificates (): string {
  const folder = temporaryFolder()
  const openssl = (...args: string[]): void => { execFileSync(path('openssl'), args, { cwd: folder, stdio: 'pipe' }) }
  openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem', '-days', '2', '-subj', '/CN=test authority')
  openssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'server-key.pem', '-out', 'server.csr', '-subj', '/CN=localhost')
  writeFileSync(join(folder, 'names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1')
  openssl('x509', '-req', '-in', 'server.csr', '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', '-out', 'server-cert.pem', '-days', '2', '-extfile', 'names')
  return folder
}

testWith(programs('nbdkit', 'openssl'))('nbdkit: encrypted, and only by one whom the client trusts', async () => {
  const folder = certificates()
  const { uri, port } = await nbdkitOnTcp(['--tls=require', `--tls-certificates=${folder}`, 'memory', '16M'])
  const client = await NbdClient.connect(`nbds://127.0.0.1:${port}/?tls-certificates=${folder}`)
  assert.equal(client.info.encrypted, true)
  await useAll(client)
  await client.close()
  await assert.rejects(NbdClient.connect(uri), { code: 'ERR_NBD_REFUSED', message: /nbds/ })
  await assert.rejects(NbdClient.connect(`nbds://127.0.0.1:${port}`), { code: 'ERR_NBD_REFUSED' })
  await assert.rejects(NbdClient.connect(`nbds://127.0.0.1:${port}/?tls-hostname=elsewhere&tls-certificates=${folder}`), { code: 'ERR_NBD_REFUSED' })
  await (await NbdClient.connect(`nbds://127.0.0.1:${port}/?tls-verify-peer=0`)).close()
  const plain = await nbdkit(['--tls=off', 'memory', '1M'])
  await assert.rejects(NbdClient.connect({ uri: plain.uri, tls: true }), { code: 'ERR_NBD_REFUSED', message: /does not encrypt/ })
})

test.run()
