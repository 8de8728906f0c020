import { type ChildProcess, fork } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { getAffinity, setAffinity } from '@node-vmm/libc'
import { FrontEnd } from '@node-vmm/vhost-user'
import { Running } from '../test/support/processes.ts'
import { built } from './build.ts'
import { negotiate } from './guest.ts'
import type { LoadAnswer, LoadJob, LoadSample } from './load.ts'

const READY_LIMIT = 10_000
const STOP_LIMIT_SECONDS = 3

/** Starts something on one processor: children inherit it, and so do all of their threads. */
export function pinned<Result> (cpu: number, start: () => Result): Result {
  const all = getAffinity()
  setAffinity([cpu])
  try {
    return start()
  } finally {
    setAffinity(all)
  }
}

/** A server that listens. */
export class Server {
  readonly pid: number
  /** Milliseconds from its start until it answered a front-end. */
  readonly readyAfter: number
  readonly #program: Running

  private constructor (program: Running, readyAfter: number) {
    this.pid = program.pid
    this.#program = program
    this.readyAfter = readyAfter
  }

  static async start (name: string, command: readonly string[], sockets: readonly string[], cpu: number): Promise<Server> {
    const begin = performance.now()
    const program = pinned(cpu, () => new Running(name, command[0], command.slice(1)))
    for (const socket of sockets) {
      while (!await answers(socket)) {
        if (program.alive && performance.now() - begin < READY_LIMIT) continue
        await program.kill()
        throw program.failure('does not answer')
      }
    }
    return new Server(program, performance.now() - begin)
  }

  get alive (): boolean {
    return this.#program.alive
  }

  /** What it has printed. */
  get output (): string {
    return this.#program.output
  }

  async stop (): Promise<void> {
    if (this.#program.alive) this.#program.signal('SIGTERM')
    await this.#program.ended(STOP_LIMIT_SECONDS).catch(() => {})
  }
}

async function answers (socket: string): Promise<boolean> {
  let frontEnd: FrontEnd | undefined
  try {
    frontEnd = FrontEnd.connect(socket, { timeout: READY_LIMIT })
    await negotiate(frontEnd)
    return true
  } catch {
    await sleep(1)
    return false
  } finally {
    frontEnd?.close()
  }
}

/** The process that makes load. One that hangs is killed, and replaced for the next job. */
export class LoadGenerator {
  readonly #cpu: number
  #child: ChildProcess | undefined

  constructor (cpu: number) {
    this.#cpu = cpu
  }

  /** @throws when the load could not be done, with the reason */
  async run (job: LoadJob): Promise<LoadSample> {
    const child = this.#child ??= pinned(this.#cpu, () => fork(built('load'), { execArgv: [] }))
    const limit = job.warmUpMilliseconds + job.milliseconds + 10_000
    const answer = await new Promise<LoadAnswer>((resolve) => {
      const timer = setTimeout(() => end(`the load generator has not ended after ${limit} ms`), limit)
      const onMessage = (message: unknown): void => settle(message as LoadAnswer)
      const onExit = (): void => end('the load generator died')
      const settle = (message: LoadAnswer): void => {
        clearTimeout(timer)
        child.off('message', onMessage).off('exit', onExit)
        resolve(message)
      }
      const end = (error: string): void => {
        this.stop()
        settle({ error })
      }
      child.on('message', onMessage).on('exit', onExit)
      child.send(job)
    })
    if ('error' in answer) throw new Error(answer.error)
    return answer.sample
  }

  stop (): void {
    this.#child?.kill('SIGKILL')
    this.#child = undefined
  }
}
