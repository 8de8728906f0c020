import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { suite } from 'uvu'
import { platform, SYSCALL_NAMES, syscallNumber } from '@node-vmm/libc'

const test = suite('syscalls')

// Debian's linux-libc-dev; arm64 has the numbers of asm-generic. Calls with two widths stand there under other names.
const headers = [
  ['x64', '/usr/include/x86_64-linux-gnu/asm/unistd_64.h'],
  ['arm64', '/usr/include/asm-generic/unistd.h']
] as const
const otherNames = new Map([['newfstatat', 'fstatat']])

for (const [arch, header] of headers) {
  test(`the numbers are those of the kernel's header for ${arch}`, () => {
    if (!existsSync(header)) return console.log(`skipped: no ${header}: apt-get install linux-libc-dev`)
    const text = readFileSync(header, 'utf8')
    for (const name of SYSCALL_NAMES) {
      const number = (wanted: string | undefined): string | undefined => new RegExp(`^#define __NR(?:3264)?_${wanted}\\s+(\\d+)$`, 'm').exec(text)?.[1]
      const expected = number(name) ?? number(otherNames.get(name))
      assert.equal(syscallNumber(name, arch)?.toString(), expected, name)
    }
  })
}

test('each number is one call\'s, and the same as in the table of the platform', () => {
  for (const arch of ['x64', 'arm64']) {
    const numbers = SYSCALL_NAMES.map((name) => syscallNumber(name, arch)).filter((number) => number !== undefined)
    assert.equal(new Set(numbers).size, numbers.length)
    const { ioSetup, ioSubmit, ioGetevents, ioDestroy, ioUringEnter } = platform('linux', arch).syscalls
    assert.deepEqual([ioSetup, ioSubmit, ioGetevents, ioDestroy, ioUringEnter],
      (['io_setup', 'io_submit', 'io_getevents', 'io_destroy', 'io_uring_enter'] as const).map((name) => syscallNumber(name, arch)))
  }
  assert.equal(syscallNumber('open', 'arm64'), undefined)
  assert.throws(() => syscallNumber('open', 's390x'), { code: 'ERR_UNSUPPORTED_PLATFORM' })
})

test.run()
