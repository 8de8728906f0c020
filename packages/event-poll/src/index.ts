/**
 * An event loop of epoll and eventfd that blocks its own thread.
 *
 * @packageDocumentation
 */
export * from './errors.ts'
export * from './event-poll.ts'
export * from './node-loop.ts'
export * from './notifier.ts'
