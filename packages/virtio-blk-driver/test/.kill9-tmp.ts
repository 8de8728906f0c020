import { spawn, type ChildProcess } from 'node:child_process'
import { writeFileSync, truncateSync, readFileSync, rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockDriver } from '../src/index.ts'
const image = '/var/tmp/kill9.img', socketPath = '/var/tmp/kill9.sock'
writeFileSync(image, ''); truncateSync(image, 16 << 20)
rmSync(socketPath, { force: true })
const inOrder = process.argv[2] === 'inorder'
function start (): Promise<ChildProcess> {
  const child = spawn('timeout', ['40', process.execPath, '--import', './tools/ts.mjs', '--conditions=@node-vmm/source', 'packages/vhost-user-blk/src/cli.ts', `--socket-path=${socketPath}`, `--blk-file=${image}`, '--num-queues=2', '--in-order', '--packed', ...(process.argv[3] ? ['--engine=' + process.argv[3]] : [])], { stdio: ['ignore', 'pipe', 'inherit'] })
  return new Promise((resolve, reject) => { child.stdout!.on('data', (d) => { resolve(child) }); child.on('exit', (c, s) => reject(new Error('exit ' + c + s))) })
}
let server = await start()
const driver = await BlockDriver.connect({ socketPath, queues: 2, queueSize: 64, inOrder, reconnect: { delay: 50 } })
console.log('connected', driver.features.toString(16))
let stop = false, ops = 0
const lane = async (slot: number): Promise<void> => {
  for (let round = 1; !stop; round++) {
    const fill = (round * 7 + slot) % 256
    await driver.write(slot * 65536, new Uint8Array(4096 * (1 + round % 8)).fill(fill))
    const back = await driver.read(slot * 65536, 4096 * (1 + round % 8))
    if (!back.every((b) => b === fill)) throw new Error(`slot ${slot} round ${round}`)
    ops += 2
  }
}
const lanes = Array.from({ length: 48 }, (_, slot) => lane(slot))
const all = Promise.all(lanes).catch((e) => { console.error('FAILED', e); process.exit(1) })
for (let kill = 0; kill < 6; kill++) {
  await sleep(200 + Math.random() * 300)
  server.removeAllListeners('exit')
  process.kill(Number((await import('node:child_process')).execFileSync('pgrep', ['-P', String(server.pid)], { encoding: 'utf8' })), 'SIGKILL')
  const before = ops
  await sleep(20)
  server = await start()
  while (ops < before + 100) await sleep(10)
  console.log('kill', kill, 'ops', ops)
}
stop = true
await all
await driver.flush()
await driver.close()
server.removeAllListeners('exit')
server.kill('SIGTERM')
console.log('done', ops)
