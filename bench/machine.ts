import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'

export interface Machine {
  readonly processor: string
  readonly processors: number
  readonly memoryGib: number
  readonly kernel: string
  /** Whether a hypervisor has this machine as a guest. */
  readonly virtual: boolean
  /** Version of each program, where installed. */
  readonly versions: Readonly<Record<string, string>>
}

export function describeMachine (): Machine {
  const cpuinfo = readFileSync('/proc/cpuinfo', 'latin1')
  return {
    processor: cpus()[0].model.trim(),
    processors: cpus().length,
    memoryGib: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    virtual: /^flags\s*:.*\bhypervisor\b/m.test(cpuinfo),
    versions: {
      'node-vmm': versionOf('git', ['describe', '--always', '--dirty'], /\S+/),
      node: process.version,
      'qemu-storage-daemon': versionOf('qemu-storage-daemon', ['--version'], /\d+\.\d+\.\d+/),
      fio: versionOf('fio', ['--version'], /\d+\.\d+/)
    }
  }
}

/** Huge pages that are free for anybody to take, in bytes. */
export function freeHugePages (): number {
  const meminfo = readFileSync('/proc/meminfo', 'latin1')
  const value = (name: string): number => Number(meminfo.match(new RegExp(`^${name}:\\s+(\\d+)`, 'm'))?.[1] ?? 0)
  return value('HugePages_Free') * value('Hugepagesize') * 1024
}

function versionOf (program: string, args: string[], pattern: RegExp): string {
  const { stdout } = spawnSync(program, args, { encoding: 'utf8', timeout: 5000, cwd: new URL('.', import.meta.url) })
  return pattern.exec(stdout ?? '')?.[0] ?? 'none'
}
