// Real guests: a Linux kernel with its own virtio-blk driver, and a shell script of the test (guest-init.sh runs it).
import { readFileSync, statfsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { guestPrograms, writeInitramfs } from './initramfs.ts'
import { cloudKernel, cloudKernelDownload, umlKernel } from './kernel.ts'
import { Running } from './processes.ts'
import { type Need, path, programs } from './programs.ts'
import { temporaryFolder } from './temporary.ts'

export interface Boot {
  /** The vhost-user-blk server's, for /dev/vda. */
  readonly socket: string
  /**
   * Runs in busybox's shell, with mkfs.ext4, e2fsck and fio beside busybox's commands, and ends at the first
   * command that fails. `say NAME VALUE` makes a result.
   */
  readonly script: string
}

export interface QemuBoot extends Boot {
  readonly queues?: number
  /** A reboot in the guest does so; otherwise it ends QEMU. */
  readonly reboots?: boolean
  /** Its size, and more of `-m`, as `512M,slots=1,maxmem=1G`. @default 512M */
  readonly memory?: string
  /** @default 300 */
  readonly limitSeconds?: number
  /** More of the disk's `-chardev`, as `reconnect=1`. */
  readonly chardev?: string
  /** More of the disk's `-device`, as `packed=on`. */
  readonly device?: string
  /** More of the kernel's parameters. */
  readonly parameters?: string
  /** More arguments. */
  readonly args?: readonly string[]
}

/** What the guest said, by name. */
export type Results = ReadonlyMap<string, string>

export const uml: Need[] = [programs('linux.uml', 'perl', ...guestPrograms)]
export const qemu: Need[] = [programs('qemu-system-x86_64', ...guestPrograms), cloudKernelDownload]

/** User-Mode Linux: one processor, one queue, no emulation; up in a second. */
export function bootUml ({ socket, script }: Boot): Guest {
  const { file, modules } = umlKernel()
  const folder = temporaryFolder()
  const initramfs = join(folder, 'initramfs')
  writeInitramfs(initramfs, modules, script)
  const [program, ...args] = withoutExtendedRegisters([
    file, 'mem=384M', `initrd=${initramfs}`, `uml_dir=${folder}/`, `virtio_uml.device=${socket}:2`,
    'con=null', 'con0=null,fd:1', 'loglevel=4', 'panic=-1'
  ])
  return new Guest(new Running('User-Mode Linux', program!, args, { TMPDIR: memoryFolder() }), 240)
}

/** User-Mode Linux 6.1 cannot save the registers of a processor with AMX: there it must do without (see uml.pl). */
export function withoutExtendedRegisters (command: string[]): string[] {
  if (!readFileSync('/proc/cpuinfo', 'utf8').includes(' amx_tile ')) return command
  return [
    path('perl'), fileURLToPath(new URL('uml.pl', import.meta.url)), ...command,
    // Becomes an environment variable of /init, and keeps the C library from using AVX.
    'GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load'
  ]
}

/** For the file that is the guest's memory. A container's /dev/shm may be too small. */
function memoryFolder (): string {
  const { bavail, bsize } = statfsSync('/dev/shm')
  return bavail * bsize > 1024 ** 3 ? '/dev/shm' : temporaryFolder()
}

/** QEMU without KVM, two processors, up in three seconds. SeaBIOS uses the disk too before the kernel does. */
export function bootQemu (boot: QemuBoot): Guest {
  const { script, reboots = false, limitSeconds = 300, parameters = '', args = [] } = boot
  const { file, modules } = cloudKernel()
  const initramfs = join(temporaryFolder(), 'initramfs')
  writeInitramfs(initramfs, modules, script)
  return new Guest(runQemu(boot, [
    '-kernel', file, '-initrd', initramfs, '-append', `console=ttyS0 loglevel=4 panic=-1 mitigations=off ${parameters}`,
    ...(reboots ? [] : ['-no-reboot']), ...args
  ]), limitSeconds)
}

/** QEMU without a kernel: SeaBIOS runs the disk's first sector. What that prints on the serial line is returned. */
export async function bootFromDisk (socket: string): Promise<string> {
  const machine = runQemu({ socket }, ['-boot', 'strict=on', '-no-reboot'])
  assert.equal(await machine.ended(240), { status: 0, signal: null })
  return machine.output
}

function runQemu (machine: Omit<QemuBoot, 'script'>, args: string[]): Running {
  const { socket, queues = 1, memory = '512M', chardev, device } = machine
  return new Running('QEMU', path('qemu-system-x86_64'), [
    // Not KVM, even where there is one: opening /dev/kvm was seen to hang in nested machines.
    '-accel', 'tcg,thread=multi',
    // With a random number instruction, without which mkfs.ext4 waits seconds for entropy.
    '-cpu', 'Nehalem,+rdrand', '-smp', '2',
    '-machine', 'q35,memory-backend=memory', '-m', memory,
    '-object', `memory-backend-memfd,id=memory,size=${memory.split(',')[0]},share=on`,
    '-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio',
    '-chardev', ['socket,id=disk', `path=${socket}`, ...(chardev === undefined ? [] : [chardev])].join(),
    '-device', ['vhost-user-blk-pci,chardev=disk', `num-queues=${queues}`, 'bootindex=1', ...(device === undefined ? [] : [device])].join(),
    ...args
  ])
}

export class Guest {
  readonly #program: Running
  readonly #deadline: number

  constructor (program: Running, limitSeconds: number) {
    this.#program = program
    this.#deadline = Date.now() + limitSeconds * 1000
  }

  /** What the guest has said so far. */
  get results (): Results {
    return new Map([...this.#program.output.matchAll(/^@@ (\S+) ?(.*)\n/gm)].map(([, name, value]) => [name!, value!]))
  }

  /** Waits until the guest says this. @throws where it ends before, or its time is over. */
  async says (name: string): Promise<string> {
    const [, value] = await this.#program.printed(new RegExp(`^@@ ${name} ?(.*)\n`, 'm'), this.#secondsLeft())
    return value!
  }

  /** Waits until the guest has powered off. @throws where a command of its script failed, or its time is over. */
  async finished (): Promise<Results> {
    const ending = await this.#program.ended(this.#secondsLeft())
    const script = this.results.get('end')
    if (script !== '0' || ending.status !== 0) {
      throw this.#program.failure(`failed: script ${script ?? 'not ended'}, exit ${ending.status ?? ending.signal}`)
    }
    return this.results
  }

  /** An error that shows the end of what it has printed. */
  failure (what: string): Error {
    return this.#program.failure(what)
  }

  /** As if its process had crashed. */
  async kill (): Promise<void> {
    await this.#program.kill()
  }

  #secondsLeft (): number {
    return Math.max(0, Math.ceil((this.#deadline - Date.now()) / 1000))
  }
}
