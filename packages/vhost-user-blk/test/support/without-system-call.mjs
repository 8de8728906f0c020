// Has the kernel refuse a system call to this process from now on, by a seccomp filter: the one whose number is in this module's URL.
import { createRequire } from 'node:module'

const PR_SET_SECCOMP = 22
const PR_SET_NO_NEW_PRIVS = 38
const SECCOMP_MODE_FILTER = 2
const EPERM = 1
const number = Number(new URL(import.meta.url).search.slice(1))

const koffi = createRequire(new URL('../../../libc/package.json', import.meta.url))('koffi')
const prctl = koffi.load('libc.so.6').func('int prctl(int option, unsigned long a, void *b, unsigned long c, unsigned long d)')

const filter = new DataView(new ArrayBuffer(4 * 8))
const instruction = (index, code, jumps, value) => {
  filter.setUint16(8 * index, code, true)
  filter.setUint16(8 * index + 2, jumps, true)
  filter.setUint32(8 * index + 4, value, true)
}
instruction(0, 0x20, 0, 0) // load the system call's number
instruction(1, 0x15, 0x0100, number) // if it is another, skip one
instruction(2, 0x06, 0, 0x00050000 | EPERM) // fail with EPERM
instruction(3, 0x06, 0, 0x7fff0000) // allow

const program = new DataView(new ArrayBuffer(16))
program.setUint16(0, 4, true)
program.setBigUint64(8, BigInt(koffi.address(filter)), true)
prctl(PR_SET_NO_NEW_PRIVS, 1, null, 0, 0)
if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) !== 0) throw new Error('no seccomp filters here')
