import type { GuestMemoryData } from '@node-vmm/hostmem'
import type { VirtqueueState, VringFault, VringInit } from '@node-vmm/vring'
import type { MessagePort } from 'node:worker_threads'
import type { DiskModule } from './custom-disk.ts'
import type { DiskFailure } from './disk-failures.ts'
import type { DiskState, ServedDisk } from './disk.ts'
import type { EngineChoice, EngineReport } from './engine.ts'
import type { DiskControl, DiskFacts } from './own-disk.ts'

/** What a device has its data-plane thread begin with. */
export interface ThreadInit {
  /** Where commands come from and answers go. */
  readonly port: MessagePort
  /** An eventfd: commands wait on the port, or a hold was let go. */
  readonly wakeFd: number
  readonly gate: SharedArrayBuffer
  /** One 32-bit word, 0 until the thread makes no system call for this device any more. */
  readonly done: SharedArrayBuffer
  readonly statistics: SharedArrayBuffer
  readonly disk: ServedDisk
  readonly engine: EngineChoice
  /** A disk of the user's own, which this thread opens: it takes the engine's place. */
  readonly diskModule: DiskModule & { readonly module: string } | undefined
  /** The ring for trace events, where somebody wants them. */
  readonly trace: SharedArrayBuffer | undefined
}

/** A queue to serve: its ring, and how the guest and the device wake each other. Addresses of records are the host's. */
export interface QueueData {
  readonly index: number
  readonly memory: GuestMemoryData
  readonly ring: VringInit & { readonly features: bigint }
  readonly kickFd: number
  readonly callFd: number | undefined
  readonly errorFd: number | undefined
  readonly inflight: { readonly address: number } | undefined
  readonly log: { readonly address: number, readonly length: number, readonly usedAddress?: number | undefined } | undefined
}

/** What the thread is asked to do, with what it answers. */
export interface Commands {
  /** Serves a queue; looks at its ring once. */
  startQueue: { readonly argument: QueueData, readonly answer: EngineReport }
  /** Stops popping, completes what is in flight, lets go of the queue. */
  stopQueue: { readonly argument: number, readonly answer: VirtqueueState }
  /** Replaces the call eventfd of a running queue. */
  setCall: { readonly argument: { readonly index: number, readonly callFd: number | undefined }, readonly answer: undefined }
  /** The disk has another size, or another mode of its write cache, or was opened meanwhile. */
  setDisk: { readonly argument: DiskState, readonly answer: undefined }
  /** Has trace events written to a ring, or not at all. */
  setTrace: { readonly argument: SharedArrayBuffer | undefined, readonly answer: undefined }
  // The others are for a disk of the user's own.
  /** Has the disk do something beside its requests. */
  callDisk: { readonly argument: keyof DiskControl, readonly answer: DiskFacts | undefined }
  /** Asks for the requests of queues that are being stopped to end soon. */
  abort: { readonly argument: undefined, readonly answer: undefined }
  /** Lets go of all queues, for good: their requests do not end. */
  giveUp: { readonly argument: undefined, readonly answer: undefined }
  /** Another gate, after the last one was given up. */
  setGate: { readonly argument: SharedArrayBuffer, readonly answer: undefined }
}

export type CommandName = keyof Commands

/** A command on its way to the thread. */
export type CommandMessage = {
  [Name in CommandName]: { readonly id: number, readonly name: Name, readonly argument: Commands[Name]['argument'] }
}[CommandName]

/** An error as it crosses threads, where classes and their fields are lost. */
export interface PlainError {
  readonly name: string
  readonly message: string
  readonly code: string | undefined
}

/** What goes in. After `'exit'` the device, whose queues are stopped, leaves its thread. */
export type ToThread = CommandMessage | 'exit'

/** What comes back: answers by the command's id, and what happens by itself. */
export type FromThread =
  | { readonly kind: 'answer', readonly id: number, readonly value: unknown }
  | { readonly kind: 'failure', readonly id: number, readonly error: PlainError }
  | { readonly kind: 'fault', readonly queue: number, readonly fault: VringFault }
  | { readonly kind: 'problem', readonly failure: DiskFailure }
  /** The device cannot begin. */
  | { readonly kind: 'death', readonly error: PlainError }
  /** The device has left its thread, which ends where it was the last one. */
  | { readonly kind: 'left', readonly isLast: boolean }
