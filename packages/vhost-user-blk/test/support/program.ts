import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { platform } from '@node-vmm/libc'

const root = fileURLToPath(new URL('../../../..', import.meta.url))
const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url))
const LIMIT_MS = 100_000

if (!existsSync(cli)) spawnSync(process.execPath, ['tools/setup.mjs'], { cwd: root, stdio: 'inherit' })

/** Flags for Node that keep a system call from the program, as container runtimes do with `io_uring_setup`. */
export function without (call: 'ioUringSetup' | 'ioSetup'): string[] {
  return ['--import', new URL(`./without-system-call.mjs?${platform().syscalls[call]}`, import.meta.url).href]
}

export interface Ended {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
}

export interface ProgramOptions {
  /** Descriptors that the program finds as 3, 4, … @default none */
  readonly fds?: readonly number[]
  /** Flags for Node. @default none */
  readonly nodeFlags?: readonly string[]
  /** Commands of the shell that becomes the program. @default none */
  readonly shell?: string
}

const running = new Set<Program>()

/** The built program, run by plain Node as a user would, for 100 seconds at most. */
export class Program {
  stdout = ''
  stderr = ''
  readonly process: ChildProcess
  readonly ended: Promise<Ended>

  constructor (args: readonly string[], { fds = [], nodeFlags = [], shell = ':' }: ProgramOptions = {}) {
    this.process = spawn('sh', ['-c', `${shell}; exec "$@"`, 'sh', process.execPath, ...nodeFlags, cli, ...args], {
      stdio: ['ignore', 'pipe', 'pipe', ...fds], timeout: LIMIT_MS, killSignal: 'SIGKILL'
    })
    this.process.stdout!.setEncoding('utf8').on('data', (text: string) => { this.stdout += text })
    this.process.stderr!.setEncoding('utf8').on('data', (text: string) => { this.stderr += text })
    this.ended = new Promise((resolve) => this.process.once('close', (status, signal) => {
      running.delete(this)
      resolve({ status, signal })
    }))
    running.add(this)
  }

  /** Starts it and waits for its ready line. @throws with what it said instead */
  static async ready (args: readonly string[], options?: ProgramOptions): Promise<Program> {
    const program = new Program(args, options)
    await program.seen(/^ready: .*\n/, 'stdout')
    return program
  }

  /** Waits until it has printed something. @throws with what it printed instead, when it has ended */
  async seen (pattern: RegExp, where: 'stdout' | 'stderr' = 'stderr'): Promise<void> {
    while (!pattern.test(this[where])) {
      const more = new Promise<undefined>((resolve) => this.process[where]!.once('data', () => resolve(undefined)))
      const ended = await Promise.race([more, this.ended])
      if (ended !== undefined && !pattern.test(this[where])) {
        throw new Error(`the program ended with ${ended.status ?? ended.signal} and without ${pattern}: ${this.stderr}`)
      }
    }
  }

  /** Sends a signal and waits for the end. */
  end (signal: NodeJS.Signals = 'SIGTERM'): Promise<Ended> {
    this.process.kill(signal)
    return this.ended
  }
}

/** Runs the program to its end. */
export async function run (...args: readonly string[]): Promise<{ status: number | null, stdout: string, stderr: string }> {
  const program = new Program(args)
  const { status } = await program.ended
  return { status, stdout: program.stdout, stderr: program.stderr }
}

/** For the end of each test: no program is left behind. */
export async function killAll (): Promise<void> {
  await Promise.all([...running].map((program) => program.end('SIGKILL')))
}
