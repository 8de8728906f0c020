// Who is watched: a server process, and what can be done to it.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { footprint } from '../../test/support/footprint.ts'
import type { Running } from '../../test/support/processes.ts'
import { residentMemory } from '../../test/support/resident-memory.ts'
import { startOurs } from '../../test/support/server.ts'
import type { Sample } from './judge.ts'

export const QUEUES = 4
const THREADS = 2
const END_SECONDS = 60
/** A session is over by then, and what it had given back a little later. */
const GUEST_MILLISECONDS = 60_000
const SETTLE_MILLISECONDS = 10_000
/** Bytes of the disk at first, and at least. */
export const SIZE_MIN = 16 << 20

/** A server process that is watched. */
export interface Subject {
  readonly name: string
  readonly pid: number
  readonly socketPath: string
  /** Gives the image another size, and makes that known. */
  resize (bytes: number): Promise<void>
  /** Keeps requests waiting while `body` runs; undefined where nobody can. */
  readonly paused: ((body: () => Promise<void>) => Promise<void>) | undefined
  /** Bytes of the main thread's heap, after a collection; undefined where it cannot be asked. */
  heap (): Promise<number | undefined>
  /** What it held before the first guest. */
  readonly fresh: readonly string[]
  /** An error of it, with the end of what it has printed where that is not seen. */
  failure (what: string): Error
  /** Ends it; it must end well. */
  end (): Promise<void>
  /** Ends it in any case. */
  kill (): Promise<void>
}

/** The built program, as users start it, past the page cache. */
export async function program (folder: string): Promise<Subject> {
  const [image, socketPath] = [newImage(folder), join(folder, 'vhost.sock')]
  const running: Running = await startOurs(socketPath, { image, direct: true, queues: QUEUES, flags: [`--threads=${THREADS}`, '--packed', '--in-order'] })
  return {
    name: 'the program',
    pid: running.pid,
    socketPath,
    resize: async (bytes) => {
      truncateSync(image, bytes)
      running.signal('SIGHUP')
    },
    paused: undefined,
    heap: async () => undefined,
    fresh: footprint(running.pid),
    failure: (what) => running.failure(`failed: ${what}`),
    end: async () => {
      running.signal('SIGTERM')
      const { status, signal } = await running.ended(END_SECONDS)
      if (status !== 0) throw running.failure(`ended with ${status ?? signal}`)
    },
    kill: () => running.kill()
  }
}

/** `serve()` in a program of somebody else's, by copying. */
export async function library (folder: string): Promise<Subject> {
  const [path, socketPath] = [newImage(folder), join(folder, 'vhost.sock')]
  const options = { path, socketPath, queues: QUEUES, threads: THREADS, packed: true, inOrder: true, engine: 'auto' }
  const child = fork(fileURLToPath(new URL('./server.mjs', import.meta.url)), [JSON.stringify(options)], { execArgv: ['--expose-gc'] })
  const commands = new Commands(child)
  await commands.ready
  return {
    name: 'the library',
    pid: child.pid!,
    socketPath,
    resize: (bytes) => commands.ask('resize', bytes),
    paused: async (body) => {
      await commands.ask('pause')
      await body()
      if (await commands.ask('inFlight') !== 0) throw new Error('paused, it has requests in flight')
      await commands.ask('resume')
    },
    heap: () => commands.ask('heap'),
    fresh: footprint(child.pid!),
    failure: (what) => new Error(`the library failed: ${what}`),
    end: async () => {
      await commands.ask('close')
      // Nothing else keeps it alive: what it has left over would.
      child.disconnect()
      const [status] = child.exitCode === null ? await once(child, 'exit') as [number | null] : [child.exitCode]
      if (status !== 0) throw new Error(`the library's process ended with ${status}`)
    },
    kill: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
  }
}

/** What the process is asked, one after the other or at once. */
class Commands {
  readonly ready: Promise<void>
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (answer: { value?: any, failure?: string }) => void>()
  #id = 0

  constructor (child: ChildProcess) {
    this.#child = child
    this.ready = new Promise((resolve, reject) => {
      child.once('exit', (status, signal) => {
        reject(new Error(`the library's process ended with ${status ?? signal}`))
        for (const answer of this.#waiting.values()) answer({ failure: `the process ended with ${status ?? signal}` })
      })
      child.on('message', (message: { ready?: true, id: number, value?: any, failure?: string }) => {
        if (message.ready) return resolve()
        this.#waiting.get(message.id)?.(message)
        this.#waiting.delete(message.id)
      })
    })
  }

  async ask (name: string, argument?: unknown): Promise<any> {
    const id = this.#id++
    const answer = new Promise<{ value?: any, failure?: string }>((resolve) => this.#waiting.set(id, resolve))
    this.#child.send({ id, name, argument })
    const { value, failure } = await answer
    if (failure !== undefined) throw new Error(`${name}: ${failure}`)
    return value
  }
}

/** Waits until a process has no guest any more, and what it had at the last sample where it ever comes to that; looks at it. */
export async function look (subject: Subject, last: Sample | undefined): Promise<Pick<Sample, 'resident' | 'heap' | 'footprint'>> {
  const now = (): string[] => footprint(subject.pid)
  const hasGuest = (): boolean => now().some((item) => item.includes('/memfd:')) || sockets(now()) > sockets(subject.fresh)
  for (const end = Date.now() + GUEST_MILLISECONDS; hasGuest(); await sleep(5)) {
    if (Date.now() > end) throw new Error(`${subject.name} does not let go of its last guest`)
  }
  if (last !== undefined) {
    for (const end = Date.now() + SETTLE_MILLISECONDS; now().join() !== last.footprint.join() && Date.now() < end;) await sleep(20)
  }
  const heap = await subject.heap()
  return { resident: residentMemory(subject.pid), heap, footprint: now() }
}

function sockets (items: readonly string[]): number {
  return items.filter((item) => item === 'descriptor of socket').length
}

function newImage (folder: string): string {
  const image = join(folder, 'disk.img')
  writeFileSync(image, '')
  truncateSync(image, SIZE_MIN)
  return image
}
