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
  assert.match(await (await fetch(url!)).text(), /^node_vmm_disk_size_bytes\{disk="disk0"\} 1048576$/m)
  assert.deepEqual(await program.end(), { status: 0, signal: null })

  const loads = (...args: string[]) => Program.ready([...place().args, ...args], { nodeFlags: ['--import', `data:text/javascript,${encodeURIComponent(WATCH)}`] })
  const without = await loads()
  await without.end()
  assert.doesNotMatch(without.stderr, /prom-client/)
  const asked = await loads('--metrics=0')
  await asked.end()
  assert.match(asked.stderr, /prom-client/)
})

test.run()
