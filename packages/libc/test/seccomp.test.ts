import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { assembleFilter, installFilter, SYSCALL_NAMES, type SyscallRule } from '@node-vmm/libc'
import { runScript } from './support/run-script.ts'

const test = suite('seccomp')

/** What a filter says to a call: the kernel's machine, as far as our filters use it. */
function verdict (filter: Uint8Array, arch: number, number: number, args: readonly bigint[] = []): number {
  const data = new DataView(new ArrayBuffer(64))
  data.setUint32(0, number, true)
  data.setUint32(4, arch, true)
  args.forEach((value, index) => data.setBigUint64(16 + 8 * index, BigInt.asUintN(64, value), true))
  const view = new DataView(filter.buffer)
  let accumulator = 0
  for (let at = 0; ; at++) {
    const value = view.getUint32(8 * at + 4, true)
    switch (view.getUint16(8 * at, true)) {
      case 0x20: accumulator = data.getUint32(value, true); break
      case 0x54: accumulator = (accumulator & value) >>> 0; break
      case 0x15: at += view.getUint8(8 * at + (accumulator === value ? 2 : 3)); break
      case 0x06: return value
      default: assert.fail(`instruction ${at}`)
    }
  }
}

const X64 = 0xc000003e
const ARM64 = 0xc00000b7
const ALLOW = 0x7fff0000
const KILL = 0x80000000
const fails = (errno: number): number => 0x00050000 | errno
const EPERM = 1
const ENOSYS = 38

test('what is named is allowed, all else is as if the kernel did not have it', () => {
  const filter = assembleFilter(['read', 'write', 'openat'], 'x64')
  assert.equal(verdict(filter, X64, 0), ALLOW)
  assert.equal(verdict(filter, X64, 257), ALLOW)
  // execve, socket, ptrace, and one that no kernel has.
  for (const number of [59, 41, 101, 9999]) assert.equal(verdict(filter, X64, number), fails(ENOSYS))
})

test('another processor\'s convention ends the process; x32, with x86-64\'s, has numbers of its own', () => {
  const filter = assembleFilter(['read'], 'x64')
  const I386 = 0x40000003
  assert.equal(verdict(filter, I386, 0), KILL)
  assert.equal(verdict(filter, ARM64, 0), KILL)
  assert.equal(verdict(filter, X64, 0x40000000), fails(ENOSYS))
  const other = assembleFilter(['read'], 'arm64')
  assert.equal(verdict(other, ARM64, 63), ALLOW)
  assert.equal(verdict(other, ARM64, 0), fails(ENOSYS))
})

test('arguments are tested: masked or whole, either half, one of several, all of them', () => {
  const rules: readonly SyscallRule[] = [
    { call: 'openat', tests: [{ argument: 2, mask: 0o1103, values: [0] }] },
    { call: 'ioctl', tests: [{ argument: 1, values: [7, 8, 9] }] },
    { call: 'prlimit64', tests: [{ argument: 0, values: [0] }, { argument: 2, values: [0] }, { argument: 2, high: true, values: [0] }] },
    'close'
  ]
  const filter = assembleFilter(rules, 'x64')
  assert.equal(verdict(filter, X64, 257, [0n, 0n, 0o2000000n]), ALLOW)
  for (const flags of [1n, 2n, 0o100n, 0o1000n]) assert.equal(verdict(filter, X64, 257, [0n, 0n, 0o2000000n | flags]), fails(EPERM))
  for (const [request, answer] of [[7n, ALLOW], [8n, ALLOW], [9n, ALLOW], [6n, fails(EPERM)], [10n, fails(EPERM)]] as const) {
    assert.equal(verdict(filter, X64, 16, [0n, request]), answer)
  }
  assert.equal(verdict(filter, X64, 302, [0n, 5n, 0n, 99n]), ALLOW)
  for (const args of [[1n], [0n, 0n, 1n], [0n, 0n, 1n << 32n]]) assert.equal(verdict(filter, X64, 302, args), fails(EPERM))
  // A rule after those with tests is still found.
  assert.equal(verdict(filter, X64, 3), ALLOW)
})

test('all calls that are known fit one filter, on both processors', () => {
  for (const arch of ['x64', 'arm64']) assert.ok(assembleFilter(SYSCALL_NAMES, arch).length / 8 < 4096)
  assert.throws(() => assembleFilter(['read'], 'riscv64'), { code: 'ERR_UNSUPPORTED_PLATFORM' })
  assert.throws(() => assembleFilter([{ call: 'ioctl', tests: [{ argument: 1, values: Array.from({ length: 300 }, (_, index) => index) }] }]),
    { name: 'RangeError', message: /the rule of ioctl has 303 instructions/ })
})

test('an installed filter holds for every thread, those that existed before included', () => {
  // The threads of Node's pool are there before: the first call starts them.
  const { before, after, status } = runScript(`
    import { access } from 'node:fs/promises'
    import { readdirSync, readFileSync } from 'node:fs'
    import { assembleFilter, installFilter, setNoNewPrivileges, SYSCALL_NAMES } from '@node-vmm/libc'
    const look = () => access('/').then(() => 'found', (error) => error.code)
    const before = await look()
    setNoNewPrivileges()
    installFilter(assembleFilter(SYSCALL_NAMES.filter((name) => !['access', 'faccessat', 'faccessat2'].includes(name))))
    const status = readdirSync('/proc/self/task').map((id) => /Seccomp:\\t(\\d)/.exec(readFileSync('/proc/self/task/' + id + '/status', 'utf8'))[1])
    console.log(JSON.stringify({ before, after: await look(), status }))
  `)
  assert.equal(before, 'found')
  assert.equal(after, 'ENOSYS')
  assert.ok(status.length > 4 && status.every((mode: string) => mode === '2'), String(status))
})

test('without no_new_privs, or with a filter that is none, the error says so', () => {
  assert.throws(() => installFilter(new Uint8Array(8)), { name: 'LinuxError', syscall: 'seccomp', code: /EINVAL|EACCES/, message: /CONFIG_SECCOMP_FILTER/ })
})

test.run()
