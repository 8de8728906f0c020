/**
 * A virtio-blk device that processes its requests in a dedicated thread.
 *
 * @packageDocumentation
 */
export * from './block-config.ts'
export type { Disk, DiskModule, OpenDisk, Segments } from './custom-disk.ts'
export * from './data-plane.ts'
export type { EngineChoice, EngineFactory, EngineModule, EngineReport } from './engine.ts'
export * from './errors.ts'
export type { Drainable, WaitOptions } from './gate.ts'
export type { ImageOptions } from './image.ts'
export { IoThread, type IoThreadOptions, POLL_DEFAULT, POLL_MAX } from './io-thread.ts'
export { LatencyHistogram } from './latency.ts'
export { type DataPlaneOptions, DISCARD_SEGMENTS_MAX, QUEUES_MAX, type QueueSetup, STOP_TIMEOUT_DEFAULT } from './options.ts'
export type { QueueStatistics } from './statistics.ts'
export { decodeTrace, markTrace, TRACE_RECORD_BYTES, type TraceEvent, type Tracer, type TraceRecord, type TraceSink } from './trace.ts'
export * from '@node-vmm/virtio-blk'
