/** What went wrong with an {@link EventPoll}, all of it misuse: nothing that a peer does throws one. */
export type EventPollErrorCode =
  /** The poll was used after `close()`. */
  | 'ERR_EVENT_POLL_CLOSED'
  /** `poll()` or `run()` was called from a callback of the same poll. */
  | 'ERR_EVENT_POLL_REENTERED'
  /** The source belongs to another poll. */
  | 'ERR_EVENT_POLL_FOREIGN_SOURCE'

const texts: Readonly<Record<EventPollErrorCode, string>> = {
  ERR_EVENT_POLL_CLOSED: 'this event poll is closed. Make a new one.',
  ERR_EVENT_POLL_REENTERED: 'poll() and run() cannot be called from a callback of the same poll. ' +
    'Return from the callback: the loop goes on by itself.',
  ERR_EVENT_POLL_FOREIGN_SOURCE: 'this source was added to another event poll. Change it there.'
}

/** An {@link EventPoll} was misused. */
export class EventPollError extends Error {
  static override readonly name = 'EventPollError'
  override readonly name = 'EventPollError'
  /** Stable: programs may switch on it. */
  readonly code: EventPollErrorCode

  constructor (code: EventPollErrorCode) {
    super(texts[code])
    this.code = code
  }
}
