// The built program, watched while it serves.
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { killAll, Program } from './support/program.ts'
import { newImage, newPath } from './support/scratch.ts'

const test = suite('watching')
test.after.each(killAll)

/** Says at its end which packages the program has loaded by `require`, as this one is. */
const WATCH = `
import { Module } from 'node:module'
process.on('exit', () => console.error(Object.keys(Module._cache).join('\\n')))`

function place (): { image: string, socketPath: string, args: string[] } {
  const [image, socketPath] = [newImage(), newPath()]
  return { image, socketPath, args: [`--socket-path=${socketPath}`, `--blk-file=${image}`, '--engine=sync'] }
}

test('--json and --stats: lines of JSON say that it is ready, what it does, and what happens', async () => {
  const { image, socketPath, args } = place()
  const program = new Program([...args, '--json', '--stats', '--name=root', '--read-only'])
  await program.seen(/\n/, 'stdout')
  const [ready] = program.stdout.split('\n')
  assert.deepEqual(JSON.parse(ready!), {
    event: 'ready', name: 'root', image, socket: socketPath, capacity: 1 << 20, readOnly: true, queues: 1, engine: 'sync'
  })
  const driver = await BlockDriver.connect({ socketPath })
  await driver.read(0, 65536)
  await program.seen(/"bytesReadPerSecond":[1-9]/, 'stdout')
  await driver.close()
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  const [, ...statistics] = program.stdout.trim().split('\n').map((line) => JSON.parse(line))
  // Rates and how long they held: together, what was read.
  const read = statistics.reduce((sum, { seconds, disks: [root] }) => sum + seconds * root.bytesReadPerSecond, 0)
  assert.ok(Math.abs(read - 65536) < 1, `${read} bytes`)
  const timed = statistics.reduce((sum, { disks: [root] }) => sum + root.latency.count, 0)
  const requests = statistics.reduce((sum, { seconds, disks: [root] }) => sum + seconds * root.requestsPerSecond, 0)
  assert.equal(timed, Math.round(requests))
  const log = program.stderr.trim().split('\n').map((line) => JSON.parse(line))
  assert.deepEqual(log[0], { event: 'log', message: 'a front-end connected' })
})

test('--stats: lines for people', async () => {
  const program = await Program.ready([...place().args, '--stats=1'])
  await program.seen(/^disk0: 0 IOPS, 0 B\/s read, 0 B\/s written, 0 in flight, 0\.00 kicks and 0\.00 interrupts a request, 0 errors$/m, 'stdout')
})

test('with --json a failure is a line of JSON, too', async () => {
  const program = new Program([`--socket-path=${newPath()}`, `--blk-file=${newPath()}`, '--json'])
  assert.equal((await program.ended).status, 1)
  const { event, message } = JSON.parse(program.stderr)
  assert.equal(event, 'log')
  assert.match(message, /ENOENT/)
})

test('--metrics: Prometheus is answered, on this machine alone; whoever does not ask for it does not load its library', async () => {
  const program = await Program.ready([...place().args, '--metrics=0'])
  const [, url] = /metrics at (http:\/\/127\.0\.0\.1:\d+\/metrics)\n/.exec(program.stderr)!
  const text = await (await fetch(url!)).text()
  assert.match(text, /^node_vmm_disk_size_bytes\{disk="disk0"\} 1048576$/m)
  assert.match(text, /^node_vmm_request_duration_seconds_bucket\{le="\+Inf",disk="disk0"\} 0$/m)
  assert.deepEqual(await program.end(), { status: 0, signal: null })

  const loads = (...args: string[]) => Program.ready([...place().args, ...args], { nodeFlags: ['--import', `data:text/javascript,${encodeURIComponent(WATCH)}`] })
  const without = await loads()
  await without.end()
  assert.doesNotMatch(without.stderr, /prom-client/)
  const asked = await loads('--metrics=0')
  await asked.end()
  assert.match(asked.stderr, /prom-client/)
})

test('--trace-file: a file that trace prints, beside --trace', async () => {
  const { socketPath, args } = place()
  const file = newPath()
  const program = await Program.ready([...args, `--trace-file=${file}`, '--trace', '--name=root'])
  const driver = await BlockDriver.connect({ socketPath })
  await driver.write(0, new Uint8Array(4096))
  await driver.close()
  assert.deepEqual(await program.end(), { status: 0, signal: null })
  assert.match(program.stderr, /^vhost-user-blk: virtio_blk_data_plane_complete_request queue=0 head=\d+ result=4096$/m)
  // Messages and requests in the order in which they were: the ring is stopped after the last request.
  assert.match(program.stderr, /complete_request queue=0 head=\d+ result=4096\n[^]*request=GET_VRING_BASE|complete_request queue=0 head=\d+ result=4096\n[^]*the front-end hung up/)
  const print = async (...flags: string[]) => {
    const printing = new Program(['trace', file, ...flags])
    return { ...await printing.ended, stdout: printing.stdout, stderr: printing.stderr }
  }
  const { status, stdout } = await print()
  assert.equal(status, 0)
  const lines = stdout.trim().split('\n')
  assert.match(lines[0]!, /^\d+\.\d{6} root virtio_blk_data_plane_start queues=1$/)
  assert.match(stdout, /^\d+\.\d{6} root virtio_blk_data_plane_complete_request queue=0 head=\d+ result=4096$/m)
  assert.match(lines.at(-1)!, / root virtio_blk_data_plane_stop$/)
  const events = (await print('--json')).stdout.trim().split('\n').map((line) => JSON.parse(line))
  assert.deepEqual([events.length, events[0].name], [lines.length, 'virtio_blk_data_plane_start'])
})

test('trace of what is none', async () => {
  const program = new Program(['trace', newPath()])
  assert.equal((await program.ended).status, 1)
  assert.match(program.stderr, /^vhost-user-blk: ENOENT/)
})

test.run()
