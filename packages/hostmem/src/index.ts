/**
 * Guest memory: an immutable map of guest-physical regions over mmap.
 *
 * @packageDocumentation
 */
export * from './dirty-log.ts'
export * from './errors.ts'
export * from './guest-memory.ts'
export type { GuestMemoryData, GuestRegion, RegionInit } from './region.ts'
