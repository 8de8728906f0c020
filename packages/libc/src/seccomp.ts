import { errno, LinuxError } from './errors.ts'
import { koffi, lastErrno, native } from './library.ts'
import { syscallNumber, type SyscallName } from './syscalls.ts'

// linux/bpf_common.h: what a filter's instructions are made of.
const LOAD_WORD = 0x20
const AND = 0x54
const JUMP_EQUAL = 0x15
const RETURN = 0x06
/** Bytes of `struct sock_filter`. */
const INSTRUCTION_BYTES = 8
/** Instructions of a filter (BPF_MAXINSNS). */
const INSTRUCTIONS_MAX = 4096
/** A jump's distance has 8 bits. */
const JUMP_MAX = 255

// struct seccomp_data: see `seccomp(2)`.
const SYSCALL_NUMBER_AT = 0
const ARCHITECTURE_AT = 4
const ARGUMENTS_AT = 16

// linux/seccomp.h
const SECCOMP_SET_MODE_FILTER = 1
const SECCOMP_FILTER_FLAG_TSYNC = 1
const ALLOW = 0x7fff0000
const FAIL = 0x00050000
const KILL_PROCESS = 0x80000000

/** `seccomp_data.arch` of the two processors (linux/audit.h). */
const architectures: Readonly<Record<string, number>> = { x64: 0xc000003e, arm64: 0xc00000b7 }

/** What 32 bits of an argument must be: what `struct seccomp_data` of `seccomp(2)` shows. */
export interface ArgumentTest {
  /** Which argument, from 0. */
  readonly argument: 0 | 1 | 2 | 3 | 4 | 5
  /** Test the upper half of its 64 bits instead of the lower one. @default false */
  readonly high?: boolean
  /** Only these bits count. @default all */
  readonly mask?: number
  /** It must be one of these. */
  readonly values: readonly number[]
}

/** A system call that is allowed, whatever its arguments or only as they are tested. */
export type SyscallRule = SyscallName | {
  /** Which one. */
  readonly call: SyscallName
  /** All of these must hold; otherwise the call fails with EPERM. */
  readonly tests: readonly ArgumentTest[]
}

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, value: number]

/**
 * Assembles a filter for {@link installFilter}. What is not among `rules` fails with ENOSYS, as on a kernel that has no
 * such call: so C libraries and runtimes fall back to older calls instead of giving up. A call by another
 * processor's convention (32-bit code in a 64-bit process) ends the process.
 *
 * @param rules those that this processor does not have are passed over.
 * @param arch @default this machine's
 * @throws UnsupportedPlatformError ERR_UNSUPPORTED_PLATFORM; RangeError for a rule that is too long
 */
export function assembleFilter (rules: readonly SyscallRule[], arch: string = process.arch): Uint8Array {
  const body = rules.flatMap((rule) => assembleRule(rule, arch))
  const program: readonly Instruction[] = [
    // First of all: numbers mean something only together with the processor.
    [LOAD_WORD, 0, 0, ARCHITECTURE_AT],
    [JUMP_EQUAL, 1, 0, architectures[arch]!],
    [RETURN, 0, 0, KILL_PROCESS],
    [LOAD_WORD, 0, 0, SYSCALL_NUMBER_AT],
    ...body,
    [RETURN, 0, 0, FAIL | errno.ENOSYS]
  ]
  if (program.length > INSTRUCTIONS_MAX) throw new RangeError(`a filter has up to ${INSTRUCTIONS_MAX} instructions: not ${program.length}`)
  const view = new DataView(new ArrayBuffer(program.length * INSTRUCTION_BYTES))
  program.forEach(([code, ifTrue, ifFalse, value], index) => {
    view.setUint16(index * INSTRUCTION_BYTES, code, true)
    view.setUint8(index * INSTRUCTION_BYTES + 2, ifTrue)
    view.setUint8(index * INSTRUCTION_BYTES + 3, ifFalse)
    view.setUint32(index * INSTRUCTION_BYTES + 4, value, true)
  })
  return new Uint8Array(view.buffer)
}

// Comes with the number loaded, and leaves it so to the next rule.
function assembleRule (rule: SyscallRule, arch: string): Instruction[] {
  const { call, tests } = typeof rule === 'string' ? { call: rule, tests: [] } : rule
  const number = syscallNumber(call, arch)
  if (number === undefined) return []
  const body: readonly Instruction[] = [...tests.flatMap(assembleTest), [RETURN, 0, 0, ALLOW]]
  if (body.length > JUMP_MAX) throw new RangeError(`the rule of ${call} has ${body.length} instructions: up to ${JUMP_MAX} can be jumped over`)
  return [[JUMP_EQUAL, 0, body.length, number], ...body]
}

function assembleTest ({ argument, high = false, mask, values }: ArgumentTest): Instruction[] {
  return [
    [LOAD_WORD, 0, 0, ARGUMENTS_AT + 8 * argument + (high ? 4 : 0)],
    ...(mask === undefined ? [] : [[AND, 0, 0, mask] as const]),
    // Each jumps over the others and the return.
    ...values.map((value, index) => [JUMP_EQUAL, values.length - index, 0, value] as const),
    [RETURN, 0, 0, FAIL | errno.EPERM]
  ]
}

const seccompC = native('int syscall(long number, unsigned int operation, unsigned int flags, void *arguments)')

/**
 * Filters the system calls of this process from now on: of every thread, those that exist included, for ever. Filters
 * add up: the strictest answer counts. All threads get `no_new_privs` along with it, which the calling one must have:
 * `setNoNewPrivileges`. See `seccomp(2)`, SECCOMP_FILTER_FLAG_TSYNC.
 *
 * @param filter of {@link assembleFilter}.
 * @throws LinuxError such as EINVAL or ENOSYS for a kernel without seccomp filters, ESRCH for a thread that cannot follow
 */
export function installFilter (filter: Uint8Array): void {
  const program = new DataView(new ArrayBuffer(16))
  program.setUint16(0, filter.length / INSTRUCTION_BYTES, true)
  program.setBigUint64(8, koffi().address(filter), true)
  const result = seccompC()(syscallNumber('seccomp'), SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, program)
  if (result === 0) return
  // A thread that has a filter of its own, which this one does not descend from, is told by its id.
  if (result > 0) throw new LinuxError('seccomp', errno.ESRCH, { subject: `thread ${result}`, remedy: 'It has another filter already: install this one before, or from that thread.' })
  throw new LinuxError('seccomp', lastErrno(), { remedy: 'Does this kernel have seccomp filters (CONFIG_SECCOMP_FILTER)?' })
}
