/**
 * An asynchronous disk queue over io_uring, Linux AIO, memory that is mapped, or plain system calls.
 *
 * @packageDocumentation
 */
export * from './by-depth.ts'
export * from './engine.ts'
export * from './errors.ts'
export { FileMap, type FileMapData } from './file-map.ts'
export * from './io-queue.ts'
export * from './io-uring.ts'
export { LinuxAioEngine, type LinuxAioOptions } from './linux-aio.ts'
export * from './mapped.ts'
export * from './request-table.ts'
export * from './sync.ts'
export * from './write-turns.ts'
