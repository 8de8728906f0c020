import type { GuestMemory, HostSlice } from '@node-vmm/hostmem'

/** Everything that a queue needs to run. Borrowed: it all stays valid until `stopQueue` has ended. */
export interface QueueSetup {
  /** The guest's memory. Changes never show here: the queue is stopped and started again with another map. */
  readonly memory: GuestMemory
  /** Descriptors in the ring, 1 to 32768. Whether a split ring's is a power of two is for the ring to check. */
  readonly size: number
  /** Guest address of the descriptor table; packed: of the descriptor ring. */
  readonly descriptorAddress: number
  /** Guest address of the available ring; packed: of the driver area. */
  readonly availableAddress: number
  /** Guest address of the used ring; packed: of the device area. */
  readonly usedAddress: number
  /**
   * Where to begin, as `stopQueue` gave it or the front-end says, in 32 bits. Split: the next index to take from the
   * available ring, 0 to 65535. Packed (VIRTIO_F_RING_PACKED among `features`): the next place to take from in bits 0
   * to 14 and its wrap counter in bit 15, the next place to give back to in bits 16 to 30 and its wrap counter in
   * bit 31; whether they are in the ring is for the ring to check.
   */
  readonly base: number
  /** The virtio features that the guest's driver accepted. */
  readonly features: bigint
  /** Readable after the guest added buffers: an eventfd, a pipe or a socket; non-blocking. */
  readonly kickFd: number
  /** To be written (8 bytes) when buffers were used. @default none: the guest polls */
  readonly callFd?: number
  /** To be written (8 bytes) once, when the ring breaks. @default none: the front-end does not want to know */
  readonly errorFd?: number
  /**
   * This queue's record of what is in flight: `inflightBytes` or more, zeros when it is new. What stands there may be of an
   * earlier process that died, and is not to be trusted. @default none: the front-end keeps none
   */
  readonly inflight?: HostSlice
  /** The log of written pages. @default none is kept */
  readonly log?: DirtyLogSetup
}

/** Where writes to the guest's memory are logged while it is migrated ("Migration"): a bit for each 4096 bytes. */
export interface DirtyLogSetup {
  /** Host address of the bitmap, a multiple of 8. Its first bit is for guest address 0. */
  readonly address: number
  /** Its bytes: all of the guest's memory is covered. */
  readonly length: number
  /**
   * Log writes to the used ring (packed: to the device area) as if it were at this guest address. A packed ring's
   * descriptors are guest memory as any other, at their own address. @default they are not logged
   */
  readonly usedAddress?: number
}

/** A virtio device as a vhost-user session serves it. It knows neither sockets nor messages. */
export interface VhostUserDevice {
  /** The virtio features that it offers. The transport's own bits (26 and 30) are not the device's. */
  readonly features: bigint
  /** Queues, 1 to 256. */
  readonly queueCount: number
  /** Whether its queues mark what they write in `QueueSetup.log`: only then the guest can be migrated. @default false */
  readonly logsDirtyPages?: boolean
  /**
   * Bytes of one queue's record of what is in flight, a multiple of 64. What stands in it is the device's business;
   * the specification has a layout ("Inflight I/O tracking").
   *
   * @default no records are kept: what is in flight when the process dies may be lost
   * @param queueSize descriptors of the ring, 1 to 32768. @param features those that the guest's driver accepted.
   * @returns 0 when it keeps none with these features.
   */
  inflightBytes? (queueSize: number, features: bigint): number
  /** The configuration space as it is now, up to 256 bytes. What is beyond its end reads as zeros. */
  getConfig (): Uint8Array
  /**
   * A write to the configuration space; queues may be running.
   *
   * @default all are refused
   * @param live the front-end migrates the guest: read-only fields may be written too.
   * @returns false when the field is not writable, or the value not valid: nothing has changed then.
   */
  setConfig? (offset: number, data: Uint8Array, live: boolean): boolean | Promise<boolean>
  /**
   * The features that the guest's driver accepted: a subset of `features`. No queue runs; may come repeatedly.
   *
   * @throws anything, to refuse them: the front-end is told as REPLY_ACK allows
   */
  setFeatures (features: bigint): void
  /**
   * Starts a queue. It must look at the ring at once: buffers may wait there whose kick was read by somebody else.
   *
   * @throws anything when the queue cannot run: the ring is reported as broken to the front-end, and the session goes on.
   */
  startQueue (index: number, queue: QueueSetup): void | Promise<void>
  /**
   * Stops a running queue: takes no more from the ring, waits for what is in flight, touches nothing afterwards. Works
   * for a queue whose ring broke, too.
   *
   * @returns where to go on: the same number as `QueueSetup.base`.
   * @throws when what is in flight does not end. The session ends then, and leaves the queue's memory mapped. Where the
   * error is a VhostUserError ERR_VHOST_USER_ABANDONED, which `startQueue` and `setCall` may throw too, the device serves
   * the next front-end; with any other it is taken for broken.
   */
  stopQueue (index: number): Promise<number>
  /** Replaces the call descriptor of a running queue. The old one is closed once this has ended. */
  setCall (index: number, fd: number | undefined): void | Promise<void>
  /**
   * Back to the initial state: the front-end reset the device (RESET_DEVICE), or the session is over. All queues are
   * stopped. Not called for SET_STATUS 0, which QEMU sends when it merely pauses the guest: what the guest has set,
   * a disk's write cache for one, is still what it expects afterwards.
   */
  reset (): void | Promise<void>
}
