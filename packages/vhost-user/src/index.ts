/**
 * The vhost-user protocol, both ends: a device served to a virtual machine in another process.
 *
 * @packageDocumentation
 */
export * from './back-end.ts'
export * from './device.ts'
export { VhostUserError, type VhostUserErrorCode } from './errors.ts'
export * from './features.ts'
export * from './front-end.ts'
export * from './listener.ts'
export * from './listening-socket.ts'
export * from './message.ts'
export * from './payload.ts'
