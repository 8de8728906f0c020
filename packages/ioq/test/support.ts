import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { close, NativeMemory, O_CREAT, O_RDWR, O_TRUNC, open } from '@node-vmm/libc'
import { IoQueue, openEngine, type EngineName, type IoQueueOptions } from '@node-vmm/ioq'
import { FaultyEngine, type FaultPlan } from '@node-vmm/ioq/testing'

/** All of them. */
export const engineNames: readonly EngineName[] = ['mapped', 'io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync']

/** The engines that can be had here for a file in memory. */
export function availableEngines (): EngineName[] {
  const file = scratchFile('/dev/shm')
  try {
    return engineNames.filter((name) => {
      try {
        openEngine(name, { fd: file.fd, depth: 1 }).engine.close()
        return true
      } catch (error) {
        console.log(`skipped: ${(error as Error).message}`)
        assert.ok(process.env['CI'] === undefined, (error as Error).message)
        return false
      }
    })
  } finally {
    file.remove()
  }
}

/** Those that can be had for any file. */
export function diskEngines (): EngineName[] {
  return availableEngines().filter((name) => name !== 'mapped')
}

let files = 0

/** A new file in a directory, open for reading and writing. */
export function scratchFile (directory: string, flags = 0): { fd: number, path: string, remove: () => void } {
  const path = `${directory}/node-vmm-ioq-${process.pid}-${files++}`
  const fd = open(path, O_RDWR | O_CREAT | O_TRUNC | flags)
  return { fd, path, remove: () => { close(fd); rmSync(path) } }
}

/** Everything may go wrong, and nothing is lost. */
export const badDay: FaultPlan = {
  seed: 20121214,
  rules: [
    { fault: { kind: 'again' }, probability: 0.2 },
    { fault: { kind: 'short' }, probability: 0.3 },
    { fault: { kind: 'error', code: 'EINTR' }, probability: 0.1 },
    { fault: { kind: 'error', code: 'EAGAIN' }, probability: 0.1 },
    { fault: { kind: 'reorder' }, probability: 0.2 },
    { fault: { kind: 'late', milliseconds: 2 }, probability: 0.1 }
  ]
}

/** A queue with the results of its requests, which may be waited for. */
export class Harness {
  readonly memory: NativeMemory
  readonly results = new Map<number, number>()
  readonly queue: IoQueue
  readonly faulty: FaultyEngine | undefined

  constructor (name: EngineName, fd: number, options: Partial<IoQueueOptions> & { plan?: FaultPlan | undefined, bytes?: number } = {}) {
    const { plan, bytes = 1 << 20, depth = 64, bufferedFd, ...rest } = options
    this.memory = new NativeMemory(bytes)
    this.faulty = plan === undefined ? undefined : new FaultyEngine(openEngine(name, { fd, depth, bufferedFd }).engine, plan)
    this.queue = new IoQueue({
      fd, bufferedFd, depth, engine: this.faulty ?? name, onComplete: (id, result) => { this.results.set(id, result) }, ...rest
    })
  }

  /** Submits and reaps until nothing is in flight. */
  finish (): void {
    const end = performance.now() + 60_000
    this.queue.submit()
    while (this.queue.inFlight > 0) {
      if (performance.now() > end) throw new Error(`${this.queue.inFlight} requests never came back from ${this.queue.engine}`)
      this.queue.reap()
      if (this.queue.stalled) this.queue.submit()
    }
  }

  /** Does one read or write of pieces of the harness's memory. @returns its result */
  transfer (operation: 'readv' | 'writev', pieces: readonly [at: number, length: number][], offset: number, flags = 0, id = 0): number {
    this.results.delete(id)
    this.queue.flags[id] = flags
    this.queue[operation](id, pieces.map(([at, length]) => ({ address: this.memory.address + at, length })), offset)
    this.finish()
    return this.results.get(id)!
  }

  flush (id = 0): number {
    this.results.delete(id)
    this.queue.flush(id)
    this.finish()
    return this.results.get(id)!
  }

  discard (offset: number, length: number, id = 0): number {
    this.results.delete(id)
    this.queue.offset[id] = offset
    this.queue.length[id] = length
    this.queue.discard(id)
    this.finish()
    return this.results.get(id)!
  }

  writeZeroes (offset: number, length: number, unmap: boolean, flags = 0, id = 0): number {
    this.results.delete(id)
    this.queue.offset[id] = offset
    this.queue.length[id] = length
    this.queue.flags[id] = flags
    this.queue.writeZeroes(id, unmap)
    this.finish()
    return this.results.get(id)!
  }

  close (): void {
    this.queue.close()
    this.memory.close()
  }
}
