/**
 * The definitions of virtio's block device, by the specification's names.
 *
 * @packageDocumentation
 */
export * from './config-space.ts'
export * from './features.ts'
export * from './request.ts'
