// The main job, once: an image is served by the program over a real vhost-user socket and driven from here.
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { bootLinux } from './linux.ts'
import { type LoadResult, randomLoad } from './load.ts'
import { verify } from './verify.ts'

const PROGRAM = fileURLToPath(new URL('../../packages/vhost-user-blk/dist/cli.js', import.meta.url))
const IMAGE_BYTES = 256 << 20
const VERIFIED_BYTES = 64 << 20
const DEPTH = 32
const SECONDS = 3

const directory = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'node-vmm-demo-'))
const image = join(directory, 'disk.img')
const socketPath = join(directory, 'disk.sock')
let server: ChildProcess | undefined
/** What the server had to say: for a failure. */
let serverLog = ''
process.on('exit', () => {
  server?.kill('SIGKILL')
  rmSync(directory, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1))

try {
  await demo()
} catch (error) {
  progress('')
  console.error(`the demo failed: ${(error as Error).message}\n${serverLog}`)
  process.exitCode = 1
}

async function demo (): Promise<void> {
  writeFileSync(image, '')
  truncateSync(image, IMAGE_BYTES)
  server = spawn(process.execPath, [PROGRAM, `--socket-path=${socketPath}`, `--blk-file=${image}`, '--serial=node-vmm-demo'], { stdio: ['ignore', 'pipe', 'pipe'] })
  server.stderr!.on('data', (text) => { serverLog += text })
  const ready = await firstLine(server)
  row('server', `vhost-user-blk, process ${server.pid}`)
  row('', ready)

  const driver = await BlockDriver.connect({ socketPath })
  row('driver', `virtio-blk-driver, process ${process.pid}: ${driver.config.capacity / 2 ** 20} MiB, serial ${await driver.getId()}`)
  const verified = await verify(driver, VERIFIED_BYTES, (share) => progress(`verifying ${Math.round(share * 100)} %`))
  progress('')
  row('verified', `${verified.toLocaleString('en')} bytes written, flushed, read back: identical`)

  console.log(`\n  4 KiB, depth ${DEPTH}, ${SECONDS} s          IOPS    p50 µs    p99 µs  p99.9 µs    max µs`)
  for (const kind of ['read', 'write'] as const) {
    progress(`random ${kind}`)
    const result = await randomLoad(driver, kind, DEPTH, SECONDS)
    progress('')
    console.log(loadRow(`random ${kind}`, result))
  }
  await driver.close()

  console.log()
  progress('booting Linux')
  const linux = await bootLinux(socketPath)
  progress('')
  row('Linux', linux)

  server.kill('SIGTERM')
  const [status] = await once(server, 'exit') as [number | null]
  if (status !== 0) throw new Error(`the server ended with status ${status}`)
  server = undefined
}

async function firstLine (child: ChildProcess): Promise<string> {
  const lines = createInterface(child.stdout!)
  const [line] = await Promise.race([once(lines, 'line'), once(child, 'exit').then(() => [undefined])]) as [string | undefined]
  if (line === undefined) throw new Error('the server did not start')
  return line
}

function row (label: string, text: string): void {
  console.log(`  ${label.padEnd(9)} ${text}`)
}

function loadRow (label: string, { requests, seconds, latency }: LoadResult): string {
  const columns = [requests / seconds, latency.p50, latency.p99, latency.p999, latency.max]
  return `  ${label.padEnd(22)}` + columns.map((value) => Math.round(value).toLocaleString('en').padStart(10)).join('')
}

/** One line that overwrites itself; nothing where no person watches. */
function progress (text: string): void {
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${text && `  ${text} …`}`)
}
