/**
 * A raw disk image served to a virtual machine over vhost-user. The program of the same name is `cli.ts`.
 *
 * @packageDocumentation
 */
export * from './block-device.ts'
export * from './sandbox.ts'
export * from './serve.ts'
export * from './users.ts'
export type { Disk, DiskModule, OpenDisk, Segments } from '@node-vmm/virtio-blk-dataplane'
export { IoThread, type IoThreadOptions } from '@node-vmm/virtio-blk-dataplane'
