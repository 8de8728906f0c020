import { deepEqual, equal, match, ok } from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'

const LINES_BELOW = 50
const programs = ['epoll', 'io-uring', 'guest-memory', 'ring']

const fileOf = (name: string): string => fileURLToPath(new URL(`${name}.ts`, import.meta.url))

function run (name: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...process.execArgv, fileOf(name), ...args], { encoding: 'utf8', timeout: 120_000 })
  equal(status, 0, stderr)
  return stdout
}

for (const name of programs) {
  test(`${name}.ts is one short file that needs no other packages than its first line says`, () => {
    const text = readFileSync(fileOf(name), 'utf8')
    const [first, ...others] = text.trimEnd().split('\n')
    ok(1 + others.length < LINES_BELOW, `${1 + others.length} lines`)
    const imported = [...text.matchAll(/ from '(?!node:)(@[^/]+\/[^/']+|[^']+)/g)].map(([, specifier]) => specifier!)
    deepEqual([...new Set(imported)].sort(), first!.replace('// npm install ', '').split(' ').sort())
  })
}

test('epoll.ts is woken by another thread and by another process', () => {
  const lines = run('epoll').trim().split('\n')
  equal(lines.pop(), 'stopped')
  deepEqual(lines.sort(), ['eventfd: the other thread rang', 'pipe: it has hung up', 'pipe: the other process says hello'])
})

test('io-uring.ts counts the lines of a file, with many reads in flight', () => {
  const file = join(tmpdir(), `io-uring-example-${process.pid}`)
  const text = Array.from({ length: 400_000 }, (_, index) => `line ${index}\n`).join('')
  writeFileSync(file, text)
  try {
    const output = run('io-uring', file)
    match(output, new RegExp(`^${file}: ${text.length} bytes, 400000 lines$`, 'm'))
    const [, requests, systemCalls] = output.match(/^(?:io_uring|linux-aio|sync): (\d+) requests, up to 32 in flight, (\d+) system calls$/m)!
    equal(Number(requests), Math.ceil(text.length / 65536))
    if (!output.includes('\nsync:')) ok(Number(systemCalls) < Number(requests), `${systemCalls} system calls`)
  } finally {
    rmSync(file)
  }
})

test('io-uring.ts says why it is not io_uring, where the host forbids that', () => {
  const withoutIoUring = new URL('../../packages/vhost-user-blk/test/support/without-system-call.mjs?425', import.meta.url).href
  const { stdout } = spawnSync(process.execPath, [...process.execArgv, '--import', withoutIoUring, fileOf('io-uring'), '/proc/self/exe'], { encoding: 'utf8', timeout: 120_000 })
  match(stdout, /^not io_uring: .*EPERM/m)
  match(stdout, /^(linux-aio|sync): /m)
})

test('guest-memory.ts shares what the guest wrote with another process, and refuses what a guest lies about', () => {
  const output = run('guest-memory')
  match(output, /^guest 0x100000000: 16 MiB, here at 0x[0-9a-f]+$/m)
  match(output, /^another process reads: written at 4 GiB \+ 4 KiB$/m)
  deepEqual([...output.matchAll(/: (found|refused)$/gm)].map(([, answer]) => answer), ['found', 'refused', 'refused', 'refused'])
  match(output, /^new requests see 1 region, those in flight 2$/m)
})

test('ring.ts carries three requests to the device and three answers back', () => {
  equal(run('ring'), 'a virtqueue -> A VIRTQUEUE\nin thirty lines -> IN THIRTY LINES\nof typescript -> OF TYPESCRIPT\n')
})

test.run()
