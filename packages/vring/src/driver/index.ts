/**
 * The driver side of the split virtqueue: a ring that a well-behaved driver fills, and one that tests fill with anything.
 *
 * @packageDocumentation
 */
export * from './driver-ring.ts'
export * from './ring-layout.ts'
export * from './raw-ring.ts'
