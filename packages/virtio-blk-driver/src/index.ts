/**
 * A virtio-blk driver in user space: mount any vhost-user-blk server from Node.
 *
 * @packageDocumentation
 */
export * from './block-driver.ts'
export type { GuestBuffer } from './buffer-pool.ts'
export type { BlockConfig } from './config.ts'
export * from './errors.ts'
export * from './features.ts'
export { QUEUE_FULL, Queue, type QueueData } from './queue.ts'
export * from './request.ts'
export type { ConnectOptions, ReconnectOptions } from './session.ts'
export { NOTHING_USED, USED_RING_BROKEN } from '@node-vmm/vring/driver'
