// QEMU's monitor (docs/interop/qmp-spec.txt): one JSON object a line, each way.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

interface Answer {
  readonly return?: unknown
  readonly error?: { readonly desc: string }
}

/** What QEMU is started with to be spoken to there. */
export function monitorAt (socket: string): string[] {
  return ['-qmp', `unix:${socket},server=on,wait=off`]
}

const gone: Answer = { error: { desc: 'QEMU has gone' } }

export class Monitor {
  readonly #socket: Socket
  #answered: (answer: Answer) => void = () => {}
  readonly #events: string[] = []
  #gone = false

  private constructor (socket: Socket) {
    this.#socket = socket
    const lines = createInterface(socket)
    // Where QEMU is killed. A command that waits is told by 'close'.
    lines.on('error', () => {})
    lines.on('line', (line) => {
      const message = JSON.parse(line)
      if ('event' in message) this.#events.push(message.event)
      else if (!('QMP' in message)) this.#answered(message)
    })
    socket.once('close', () => {
      this.#gone = true
      this.#answered(gone)
    })
  }

  /** @param path that of `monitorAt`; QEMU may still be starting. */
  static async connect (path: string): Promise<Monitor> {
    const deadline = Date.now() + 60_000
    for (;;) {
      const socket = connect(path)
      const isConnected = await once(socket, 'connect').then(() => true, () => false)
      if (isConnected) {
        const monitor = new Monitor(socket)
        await monitor.execute('qmp_capabilities')
        return monitor
      }
      if (Date.now() > deadline) throw new Error(`QEMU has no monitor at ${path} after 60 s`)
      await sleep(50)
    }
  }

  /** One command at a time. @throws with QEMU's words where it refuses, or where it does not answer within 120 seconds */
  async execute (command: string, args: object = {}): Promise<any> {
    const answer = this.#gone ? gone : await new Promise<Answer>((resolve) => {
      const timer = setTimeout(() => resolve({ error: { desc: 'QEMU does not answer' } }), 120_000)
      this.#answered = (answer) => {
        clearTimeout(timer)
        resolve(answer)
      }
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`)
    })
    if (answer.error !== undefined) throw new Error(`${command}: ${answer.error.desc}`)
    return answer.return
  }

  /** Waits until QEMU has told of an event, since the monitor was connected. */
  async told (event: string, seconds: number): Promise<void> {
    await until(`QEMU tells of ${event}`, async () => this.#events.includes(event), seconds)
  }
}

/** Looks every 50 ms. @throws where it is not so in time */
export async function until (what: string, isSo: () => Promise<boolean>, seconds: number): Promise<void> {
  const deadline = Date.now() + seconds * 1000
  while (!await isSo()) {
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s`)
    await sleep(50)
  }
}
