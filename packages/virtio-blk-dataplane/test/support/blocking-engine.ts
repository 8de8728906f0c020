// An engine module: the kernel keeps the thread in the system call that submits a read, as storage that hangs does with
// buffered files, until the pipe is written to. Other requests are done by the plain engine.
import { execFileSync } from 'node:child_process'
import { openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { openEngine, READ } from '@node-vmm/ioq'
import { NativeMemory, read } from '@node-vmm/libc'
import type { EngineFactory, EngineModule } from '../../src/index.ts'

interface Options {
  readonly fd: number
  readonly readers: Int32Array
}

const factory: EngineFactory = (options, moduleOptions) => {
  const { fd, readers } = moduleOptions as Options
  const { engine } = openEngine('sync', options)
  const submit = engine.submit.bind(engine)
  const byte = new NativeMemory(1)
  engine.submit = (ids, from, count, table) => {
    for (let index = from; index < from + count; index++) {
      if (table.kind[ids[index]!] !== READ) continue
      Atomics.add(readers, 0, 1)
      read(fd, byte.address, 1)
      Atomics.sub(readers, 0, 1)
    }
    return submit(ids, from, count, table)
  }
  return engine
}

export default factory

/** What the reads of such an engine wait for. */
export class BlockingPipe {
  readonly engine: EngineModule
  readonly #fd: number
  readonly #readers = new Int32Array(new SharedArrayBuffer(4))

  constructor (directory: string) {
    const path = join(directory, 'blocking-pipe')
    execFileSync('mkfifo', [path])
    this.#fd = openSync(path, 'r+')
    rmSync(path)
    this.engine = { module: import.meta.url, options: { fd: this.#fd, readers: this.#readers } satisfies Options }
  }

  /** A thread is in the system call, or about to make it. */
  get hasReader (): boolean {
    return Atomics.load(this.#readers, 0) > 0
  }

  /** Lets one read go on. */
  release (): void {
    writeSync(this.#fd, 'x')
  }
}
