/**
 * An NBD client: read and write a network block device from Node, or make it the disk of a virtual machine.
 *
 * @packageDocumentation
 */
export { type NbdAddress, type NbdTlsOptions, parseNbdUri } from './address.ts'
export * from './client.ts'
export * from './disk.ts'
export { NbdError, type NbdErrorCode } from './errors.ts'
export type { BlockSizes, ExportInfo, NbdExport } from './handshake.ts'
export {
  NBD_DEFAULT_PORT, NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_READ_ONLY, NBD_FLAG_ROTATIONAL, NBD_FLAG_SEND_DF, NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH, NBD_FLAG_SEND_FUA, NBD_FLAG_SEND_TRIM, NBD_FLAG_SEND_WRITE_ZEROES
} from './protocol.ts'
export type { Segments } from './request.ts'
