import type { Request } from './request.ts'

/** Which requests a signal gives up. One listener a signal, however many requests share it. */
export class Aborts {
  readonly #watched = new Map<AbortSignal, { readonly requests: Set<Request>, readonly onAbort: () => void }>()
  readonly #abandon: (request: Request, reason: unknown) => void

  constructor (abandon: (request: Request, reason: unknown) => void) {
    this.#abandon = abandon
  }

  watch (signal: AbortSignal, request: Request): void {
    const watched = this.#watched.get(signal)
    if (watched !== undefined) {
      watched.requests.add(request)
      return
    }
    const requests = new Set([request])
    const onAbort = (): void => { for (const request of requests) this.#abandon(request, signal.reason) }
    this.#watched.set(signal, { requests, onAbort })
    signal.addEventListener('abort', onAbort)
  }

  unwatch (signal: AbortSignal, request: Request): void {
    const { requests, onAbort } = this.#watched.get(signal)!
    requests.delete(request)
    if (requests.size > 0) return
    signal.removeEventListener('abort', onAbort)
    this.#watched.delete(signal)
  }
}
