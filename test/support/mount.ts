// File systems of a test's own, where this process may mount.
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { skip } from './programs.ts'
import { temporaryFolder } from './temporary.ts'

/** What to mount: options of `mount(8)`. */
export type MountOptions = readonly string[]

/** A tmpfs of so many bytes. */
export function tmpfs (bytes: number): MountOptions {
  return ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs']
}

/** Mounts a file system while `body` runs. */
export async function withMount (options: MountOptions, body: (directory: string) => void | Promise<void>): Promise<void> {
  const directory = join(temporaryFolder(), 'mount')
  mkdirSync(directory)
  run('mount', ...options, directory)
  try {
    await body(directory)
  } finally {
    // Whoever had a file open may be on its way out.
    run('umount', '--lazy', directory)
  }
}

/** uvu's `test` for tests that mount: skipped, with the reason, where this process may not. */
export function mountTest (name: string, body: () => Promise<void>): void {
  reason ??= whyNot()
  if (reason === '') test(name, body)
  else skip(name, reason)
}

let reason: string | undefined

function whyNot (): string {
  if (process.getuid!() !== 0) return 'only root may mount'
  const directory = temporaryFolder()
  try {
    run('mount', ...tmpfs(4096), directory)
    run('umount', directory)
    return ''
  } catch (error) {
    return `this process may not mount: ${(error as Error).message.trim().split('\n').at(-1)}`
  }
}

/** Runs a program of the system to its end. @returns what it printed @throws with what it said */
export function run (command: string, ...args: string[]): string {
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
  return execFileSync(command, args, { encoding: 'utf8', timeout: 60_000, stdio: ['ignore', 'pipe', 'pipe'], env })
}
