/**
 * Disks for a virtual machine, to be stacked.
 *
 * @packageDocumentation
 */
export { encrypted, type EncryptedOptions, formatEncrypted, type FormatEncryptedOptions } from './encrypted.ts'
export * from './errors.ts'
export * from './faulty.ts'
export { fromModule, type ModuleOptions } from './module.ts'
export type { OpenedDisk } from './opened-disk.ts'
export type { Base } from './overlay-base.ts'
export * from './overlay-create.ts'
export * from './overlay-tools.ts'
export { overlay, type OverlayOptions } from './overlay.ts'
export * from './ram.ts'
export * from './raw.ts'
export { checkSpec, DISK_TYPES, type DiskSpec, open, openDisk, type OpenOptions } from './spec.ts'
export * from './text.ts'
export * from './throttle.ts'
export type { Bucket } from './token-bucket.ts'
