/**
 * The Linux system calls that a virtual machine monitor makes, typed, over koffi.
 *
 * @packageDocumentation
 */
export * from './aio.ts'
export * from './block-device.ts'
export * from './epoll.ts'
export * from './errors.ts'
export * from './eventfd.ts'
export * from './file.ts'
export * from './io-uring.ts'
export * from './landlock.ts'
export * from './memory.ts'
export * from './platform.ts'
export * from './prefetch.ts'
export * from './privileges.ts'
export * from './process.ts'
export * from './readiness.ts'
export * from './seccomp.ts'
export * from './socket.ts'
export * from './syscalls.ts'
export * from './thread.ts'
