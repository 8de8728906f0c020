// A guest in QEMU whose disk's server goes and comes back.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { suite } from 'uvu'
import { eventually } from '../../../test/support/eventually.ts'
import { reading } from './support/boot-sector.ts'
import { killAll, Program } from './support/program.ts'
import { newPath } from './support/scratch.ts'

const LIMIT_MS = 110_000

const test = suite('reconnect')
let qemu: ChildProcess | undefined

test.after.each(async () => {
  qemu?.kill('SIGKILL')
  await killAll()
})

const missing = spawnSync('qemu-system-x86_64', ['--version']).error !== undefined
if (missing) console.log('skipped: QEMU is missing: apt-get install qemu-system-x86')

const guestTest = missing && process.env.CI === undefined ? test.skip : test

guestTest('a guest waits while its server is gone, killed or ended by SIGTERM, and goes on with the next one', async () => {
  const [image, socketPath] = [newPath(), newPath()]
  writeFileSync(image, Buffer.concat([reading(), new Uint8Array(1 << 20)]))
  const args = [`--socket-path=${socketPath}`, `--blk-file=${image}`]
  let server = await Program.ready(args)
  qemu = spawn('qemu-system-x86_64', [
    '-machine', 'q35,accel=tcg,memory-backend=mem', '-m', '128M', '-object', 'memory-backend-memfd,id=mem,size=128M,share=on',
    '-chardev', `socket,id=disk,path=${socketPath},reconnect=1`, '-device', 'vhost-user-blk-pci,chardev=disk,num-queues=1',
    '-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio'
  ], { stdio: ['ignore', 'pipe', 'ignore'], timeout: LIMIT_MS, killSignal: 'SIGKILL' })
  let printed = ''
  qemu.stdout!.setEncoding('latin1').on('data', (text: string) => { printed += text })
  const goesOn = async (): Promise<void> => {
    const before = printed.length
    await eventually('the guest goes on', () => printed.length >= before + 100).catch((error) => {
      throw new Error(`the guest read ${printed.length} times, then no more: ${server.stderr}`, { cause: error })
    })
  }

  await goesOn()
  for (const signal of ['SIGKILL', 'SIGTERM', 'SIGKILL'] as const) {
    await server.end(signal)
    // It waits, once what it had printed before has come.
    for (let standing = -1; printed.length > standing; await sleep(200)) standing = printed.length
    server = await Program.ready(args)
    await goesOn()
  }
  assert.match(printed, /^\.+$/)
})

test.run()
