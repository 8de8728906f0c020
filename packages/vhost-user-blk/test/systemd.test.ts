import { bindUnix, close, listen, MSG_DONTWAIT, receiveMessage, unixDatagramSocket, unixSocket } from '@node-vmm/libc'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { suite } from 'uvu'
import { ask } from '../src/control-client.ts'
import { Notifier, takePassedSockets } from '../src/systemd.ts'
import { killAll, Program } from './support/program.ts'
import { newImage, newPath } from './support/scratch.ts'

const test = suite('systemd')
const open: number[] = []
test.after.each(async () => {
  await killAll()
  for (const fd of open.splice(0)) close(fd)
})

/** Instead of systemd. */
function notifySocket (name: string): { messages: () => string[] } {
  const fd = unixDatagramSocket()
  open.push(fd)
  bindUnix(fd, name)
  const seen: string[] = []
  const messages = (): string[] => {
    const buffer = Buffer.alloc(4096)
    for (let message; (message = receiveMessage(fd, buffer, 0, MSG_DONTWAIT)) !== undefined;) seen.push(buffer.toString('utf8', 0, message.length))
    return seen
  }
  return { messages }
}

function listening (): { fd: number, path: string } {
  const [fd, path] = [unixSocket(), newPath()]
  open.push(fd)
  bindUnix(fd, path)
  listen(fd)
  return { fd, path }
}

test('sockets are taken by number and name, only where they are meant for this process, and for it alone', () => {
  const environment: NodeJS.ProcessEnv = { LISTEN_PID: '7', LISTEN_FDS: '3', LISTEN_FDNAMES: 'root:control', OTHER: 'x' }
  assert.deepEqual(takePassedSockets(environment, 7), [{ fd: 3, name: 'root' }, { fd: 4, name: 'control' }, { fd: 5, name: 'unknown' }])
  assert.deepEqual(environment, { OTHER: 'x' })
  assert.deepEqual(takePassedSockets({ LISTEN_PID: '8', LISTEN_FDS: '1' }, 7), [])
  assert.deepEqual(takePassedSockets({ LISTEN_FDS: '1' }, 7), [])
  for (const count of ['0', '-1', '1.5', 'x', '', '1025']) assert.deepEqual(takePassedSockets({ LISTEN_PID: '7', LISTEN_FDS: count }, 7), [])
})

test('notifications go to a path, or to an abstract name; without one, nowhere', () => {
  for (const [address, name] of [[newPath()], [`@node-vmm-notify-${process.pid}`, `\0node-vmm-notify-${process.pid}`]] as const) {
    const { messages } = notifySocket(name ?? address!)
    Notifier.connect(address)!.notify({ READY: '1', STATUS: 'Serving disk0' })
    assert.deepEqual(messages(), ['READY=1\nSTATUS=Serving disk0'])
  }
  assert.equal(Notifier.connect(''), undefined)
  assert.throws(() => Notifier.connect(newPath()), { code: 'ENOENT' })
})

test('systemd passes on the sockets of the disk and of control, and is told when it is ready and when it stops', async () => {
  const [disk, control] = [listening(), listening()]
  const name = newPath()
  const { messages } = notifySocket(name)
  const program = await Program.ready([`--blk-file=${newImage()}`], {
    fds: [disk.fd, control.fd],
    shell: `export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=disk.socket:control NOTIFY_SOCKET=${name}`
  })
  assert.match(program.stdout, / on fd 3\n$/)
  const driver = await BlockDriver.connect({ socketPath: disk.path })
  await driver.write(0, new Uint8Array(512))
  await driver.close()
  assert.deepEqual(messages(), ['READY=1\nSTATUS=Serving disk0'])
  assert.deepEqual(await ask(control.path, { command: 'quit' }), { ok: true, result: {} })
  assert.deepEqual(await program.ended, { status: 0, signal: null })
  assert.deepEqual(messages().slice(1), ['STOPPING=1\nSTATUS=Completing what is in flight'])
  assert.ok(existsSync(disk.path) && existsSync(control.path))
})

test('where systemd cannot be told, the disk is served all the same', async () => {
  const program = await Program.ready([`--socket-path=${newPath()}`, `--blk-file=${newImage()}`], { shell: `export NOTIFY_SOCKET=${newPath()}` })
  assert.match(program.stderr, /systemd cannot be told anything: .*ENOENT/)
  assert.deepEqual(await program.end(), { status: 0, signal: null })
})

test.run()
