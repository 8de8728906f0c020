/**
 * The virtqueue: the device's side of a virtio ring. The driver's side is `@node-vmm/vring/driver`.
 *
 * @packageDocumentation
 */
export * from './descriptor-chain.ts'
export * from './errors.ts'
export * from './inflight-record.ts'
export * from './layout.ts'
export * from './packed-inflight-record.ts'
export * from './packed-layout.ts'
export * from './packed-vring.ts'
export * from './split-vring.ts'
export * from './virtqueue.ts'
