// Programs that a test runs beside itself. Each is the leader of a process group of its own, so that whatever it
// starts (User-Mode Linux runs every guest process as a host process) goes when it goes.
import { type ChildProcess, spawn } from 'node:child_process'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export interface Ending {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
}

export class Running {
  readonly name: string
  readonly pid: number
  readonly #ended: Promise<Ending>
  readonly #watchers = new Set<() => void>()
  #output = ''
  #alive = true

  /** @param name what failure messages call it */
  constructor (name: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.name = name
    const child = spawn(command, args, {
      detached: true, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env }
    })
    child.on('error', (error) => { this.#output += `${error.message}\n` })
    if (child.pid === undefined) throw new Error(`${command} cannot be started`)
    this.pid = child.pid
    const dismissGuard = guard(this.pid)
    for (const stream of [child.stdout!, child.stderr!]) this.#collect(stream)
    child.once('exit', () => {
      killGroup(this.pid)
      dismissGuard()
    })
    this.#ended = closed(child).finally(() => {
      this.#alive = false
      running.delete(this)
      this.#wake()
    })
    running.add(this)
  }

  /** What it has printed so far, both streams, without the carriage returns of a serial console. */
  get output (): string {
    return this.#output.replaceAll('\r', '')
  }

  /** It has not ended yet. */
  get alive (): boolean {
    return this.#alive
  }

  /** Waits until its output matches. @throws where it ends before, or has not done so in time: then it is killed. */
  async printed (pattern: RegExp, seconds: number): Promise<RegExpMatchArray> {
    const deadline = Date.now() + seconds * 1000
    for (;;) {
      const match = this.output.match(pattern)
      if (match !== null) return match
      if (!this.#alive) throw this.failure(`ended without printing ${pattern}`)
      if (Date.now() >= deadline) await this.#giveUp(`has not printed ${pattern} after ${seconds} s`)
      await this.#change(deadline - Date.now())
    }
  }

  /** Waits until it has ended. @throws where it has not in time: then it is killed. */
  async ended (seconds: number): Promise<Ending> {
    const deadline = Date.now() + seconds * 1000
    while (this.#alive) {
      if (Date.now() >= deadline) await this.#giveUp(`has not ended after ${seconds} s`)
      await this.#change(deadline - Date.now())
    }
    return this.#ended
  }

  signal (signal: NodeJS.Signals): void {
    process.kill(this.pid, signal)
  }

  /** Kills it and all that it has started. */
  async kill (): Promise<void> {
    if (this.#alive) killGroup(this.pid)
    await this.#ended
  }

  /** An error that shows the end of what it has printed. */
  failure (what: string): Error {
    const error = new Error(`${this.name} ${what}`)
    const tail = this.output.trimEnd().split('\n').slice(-100).map((line) => `\n  | ${line}`)
    error.message += tail.join('') // and not in error.stack: uvu prints both
    return error
  }

  #collect (stream: NodeJS.ReadableStream): void {
    stream.setEncoding('utf8')
    stream.on('data', (chunk) => {
      this.#output += chunk
      this.#wake()
    })
  }

  #wake (): void {
    for (const watcher of this.#watchers) watcher()
    this.#watchers.clear()
  }

  /** Until there is more output, or it has ended, or the time is over. */
  async #change (milliseconds: number): Promise<void> {
    const stopped = new AbortController()
    const woken = new Promise<void>((resolve) => this.#watchers.add(resolve))
    await Promise.race([woken, sleep(milliseconds, undefined, { signal: stopped.signal }).catch(() => {})])
    stopped.abort()
  }

  async #giveUp (what: string): Promise<never> {
    const failure = this.failure(what)
    await this.kill()
    throw failure
  }
}

const running = new Set<Running>()

export async function killAll (): Promise<void> {
  await Promise.all([...running].map((program) => program.kill()))
}

/**
 * Kills the group when this process is gone, however it went: where a test is killed for its time limit, no exit
 * handler runs. The guard notices by the end of file on its standard input. Returns what sends it home.
 */
function guard (group: number): () => void {
  const child = spawn('/bin/sh', ['-c', 'read -r _ || kill -s KILL -- "-$0"', String(group)], {
    detached: true, stdio: ['pipe', 'ignore', 'ignore']
  })
  child.unref()
  const input = child.stdin as Socket
  input.unref()
  return () => input.end('\n')
}

function killGroup (group: number): void {
  try {
    process.kill(-group, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function closed (child: ChildProcess): Promise<Ending> {
  return new Promise((resolve) => child.once('close', (status, signal) => resolve({ status, signal })))
}
