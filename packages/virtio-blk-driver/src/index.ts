/**
 * A virtio-blk driver in user space: mount any vhost-user-blk server from Node.
 *
 * @packageDocumentation
 */
export * from './block-driver.ts'
export type { GuestBuffer } from './buffer-pool.ts'
export type { BlockConfig } from './config.ts'
export * from './errors.ts'
export { DRIVER_FEATURES } from './features.ts'
export { QUEUE_FULL, Queue, type QueueData } from './queue.ts'
export type { ConnectOptions, ReconnectOptions } from './session.ts'
export { NOTHING_USED, USED_RING_BROKEN } from '@node-vmm/vring/driver'
export { readsFromDisk, STATUS_PENDING } from './request.ts'
export * from '@node-vmm/virtio-blk'
export {
  featureMask, hasFeature, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1
} from '@node-vmm/vring'
