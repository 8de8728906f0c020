import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const root = new URL('../../', import.meta.url)

/** The fuzzer as a program, from its sources. */
export class Program {
  readonly child: ChildProcess
  output = ''
  readonly #ended: Promise<unknown[]>

  constructor (...args: string[]) {
    const loader = fileURLToPath(new URL('tools/ts.mjs', root))
    this.child = spawn(process.execPath, ['--import', loader, '--conditions=@node-vmm/source', fileURLToPath(new URL('fuzz/fuzz.ts', root)), ...args])
    for (const stream of [this.child.stdout!, this.child.stderr!]) stream.setEncoding('utf8').on('data', (text: string) => { this.output += text })
    this.#ended = once(this.child, 'close')
  }

  /** @returns its exit status */
  async ended (): Promise<number | null> {
    const [status] = await this.#ended as [number | null]
    return status
  }
}
