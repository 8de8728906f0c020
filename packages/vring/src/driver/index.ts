/**
 * The driver side of the virtqueue, split and packed: rings that a well-behaved driver fills, and rings that tests fill
 * with anything.
 *
 * @packageDocumentation
 */
export {
  type DriverQueue, type DriverRingOptions, type IndirectTables, indirectTableBytes, NOTHING_USED, RING_FULL, type Segment,
  USED_RING_BROKEN
} from './driver-queue.ts'
export * from './driver-ring.ts'
export * from './packed-driver-ring.ts'
export * from './raw-packed-ring.ts'
export * from './raw-ring.ts'
export * from './ring-layout.ts'
