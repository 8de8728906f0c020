import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import { runReadmeExample } from '../../../test/support/readme.ts'
import { HELP } from '../src/options.ts'
import { printing } from './support/boot-sector.ts'
import { killAll, Program } from './support/program.ts'
import { newPath } from './support/scratch.ts'

const directory = fileURLToPath(new URL('..', import.meta.url))
const readme = readFileSync(`${directory}/README.md`, 'utf8')

const test = suite('readme')
test.after.each(killAll)

test('the example of the README runs', () => {
  const lines = runReadmeExample(directory).trim().split('\n')
  // Who ends the session, the driver or the server, is a race.
  assert.match(lines.splice(4, 1)[0]!, /^log: the session ended: the (front-end hung up|server closes)$/)
  assert.deepEqual(lines, [
    'serving 1048576 bytes',
    'log: a front-end connected',
    'disk0 has: what the guest writes',
    '{ requests: 4, bytesWritten: 512 }',
    'ended with undefined'
  ])
})

test('the disk of one\'s own of the README runs', () => {
  assert.deepEqual(runReadmeExample(directory, 1).trim().split('\n'), ['4096 bytes at 1048576', 'has: what the guest writes', '8 blocks'])
})

test('the table of options has those of --help', () => {
  const inHelp = new Set(HELP.match(/--[a-z-]+/g))
  const inTable = new Set(readme.split('\n').filter((line) => line.startsWith('| `--')).flatMap((line) => line.split('|')[1]!.match(/--[a-z-]+/g)!))
  assert.deepEqual([...inTable].sort(), [...inHelp].sort())
})

test('the command line of the README boots QEMU from the disk', async () => {
  const command = /^qemu-system-x86_64 (?:.*\\\n)*.*$/m.exec(readme)![0]
  if (spawnSync('qemu-system-x86_64', ['--version']).error !== undefined) {
    console.log('skipped: QEMU is missing: apt-get install qemu-system-x86')
    assert.equal(process.env.CI, undefined)
    return
  }
  const [image, socketPath] = [newPath(), newPath()]
  writeFileSync(image, Buffer.concat([printing('booted from the disk'), new Uint8Array(1 << 20)]))
  await Program.ready([`--socket-path=${socketPath}`, `--blk-file=${image}`])
  const here = command.replace('accel=kvm', 'accel=tcg').replaceAll('2G', '256M').replace('/tmp/disk.sock', socketPath)
  assert.ok(here.includes(socketPath))
  const { stdout, stderr, status } = spawnSync('sh', ['-c', `exec ${here} -nodefaults -display none -serial stdio -no-reboot`], {
    encoding: 'utf8', timeout: 100_000, killSignal: 'SIGKILL'
  })
  assert.deepEqual([stdout, status], ['booted from the disk', 0], stderr)
})

test.run()
