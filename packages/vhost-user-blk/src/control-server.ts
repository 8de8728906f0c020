import type { ListeningSocket } from '@node-vmm/vhost-user'
import { Socket } from 'node:net'
import { type ControlAnswer, ControlError, type ControlRequest, parseRequest } from './control.ts'

/** Characters of the longest request. */
export const REQUEST_MAX = 4096
/** Clients that may be connected at once. */
export const CLIENTS_MAX = 16
/** Milliseconds that a client has to take in that there is no room for it. */
const REFUSAL_MS = 1000

/**
 * Answers control clients: a line of JSON for each line of JSON, in order, one after the other for each client. What a
 * client sends is bounded, and so is what waits for one that does not read.
 */
export class ControlServer {
  readonly #socket: ListeningSocket
  readonly #execute: (request: ControlRequest) => Promise<unknown>
  readonly #clients = new Set<Socket>()

  /**
   * @param socket its own from now on
   * @param execute follows a request; what it throws is told to the client
   */
  constructor (socket: ListeningSocket, execute: (request: ControlRequest) => Promise<unknown>) {
    this.#socket = socket
    this.#execute = execute
    socket.accept((fd) => void this.#serve(new Socket({ fd, readable: true, writable: true, allowHalfOpen: true })))
  }

  /** Hangs up on all clients, with what they were answered, and removes the socket. @throws Error where the file cannot be removed */
  close (): void {
    for (const client of this.#clients) {
      client.destroySoon()
      client.unref()
    }
    this.#socket.close()
  }

  async #serve (client: Socket): Promise<void> {
    client.on('error', () => {})
    if (this.#clients.size === CLIENTS_MAX) return refuse(client)
    this.#clients.add(client)
    try {
      await this.#converse(client)
    } catch {
      // It hung up.
    } finally {
      this.#clients.delete(client)
      client.destroySoon()
    }
  }

  async #converse (client: Socket): Promise<void> {
    let text = ''
    client.setEncoding('utf8')
    for await (const more of client.iterator({ destroyOnReturn: false })) {
      const lines = (text + more).split('\n')
      text = lines.pop()!
      for (const request of lines) {
        await send(client, await this.#answer(request))
        if (request.length > REQUEST_MAX) return
      }
      if (text.length > REQUEST_MAX) return send(client, await this.#answer(text))
    }
    // The last line of a client that has no more to say needs no end.
    if (text.trim() !== '') await send(client, await this.#answer(text))
  }

  async #answer (text: string): Promise<ControlAnswer> {
    let id: ControlRequest['id']
    try {
      if (text.length > REQUEST_MAX) throw new ControlError(`a request has up to ${REQUEST_MAX} characters.`)
      const request = parseRequest(text)
      if (['string', 'number'].includes(typeof request.id)) id = request.id
      const result = await this.#execute(request)
      return { ...(id !== undefined && { id }), ok: true, result }
    } catch (error) {
      return { ...(id !== undefined && { id }), ...failure(error as Error) }
    }
  }
}

/** What it sent is read as well: closed with that unread, the connection is reset, and the client may not see the answer. */
function refuse (client: Socket): void {
  client.unref().resume()
  client.end(line(failure(new ControlError(`${CLIENTS_MAX} clients are connected already.`))))
  const late = setTimeout(() => client.destroy(), REFUSAL_MS).unref()
  client.once('close', () => clearTimeout(late))
}

function failure (error: Error & { readonly code?: string }): ControlAnswer {
  return { ok: false, error: { code: error.code ?? 'ERR_CONTROL', message: error.message } }
}

function line (answer: ControlAnswer): string {
  return `${JSON.stringify(answer)}\n`
}

// When the kernel has it: no more is read from a client that does not read.
function send (client: Socket, answer: ControlAnswer): Promise<void> {
  return new Promise((resolve, reject) => { client.write(line(answer), (error) => error ? reject(error) : resolve()) })
}
