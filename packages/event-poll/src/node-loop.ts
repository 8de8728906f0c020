import { watchReadable, type Watch } from '@node-vmm/libc'
import { EventPollError } from './errors.ts'
import type { EventPoll } from './event-poll.ts'

/**
 * Runs the callbacks of a poll from Node's own event loop instead of a thread of its own: for sockets of a control
 * plane, beside timers and promises. What a callback throws is an uncaught exception.
 *
 * The watch keeps the process alive until it is closed or `unref()`ed, and is closed together with the poll.
 *
 * @throws EventPollError ERR_EVENT_POLL_CLOSED; LinuxError when Node cannot watch it
 */
export function serveFromNode (poll: EventPoll): Watch {
  if (poll.closed) throw new EventPollError('ERR_EVENT_POLL_CLOSED')
  const watch = watchReadable(poll.fd, () => { if (!poll.closed) poll.poll(0) })
  poll.onClose(() => watch.close())
  return watch
}
