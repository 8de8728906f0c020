import type { GuestMemory } from '@node-vmm/hostmem'

/** Everything that a queue needs to run. Borrowed: it all stays valid until `stopQueue` has ended. */
export interface QueueSetup {
  /** The guest's memory. Changes never show here: the queue is stopped and started again with another map. */
  readonly memory: GuestMemory
  /** Descriptors in the ring, 1 to 32768. Whether it is a power of two is for the ring to check. */
  readonly size: number
  /** Guest address of the descriptor table. */
  readonly descriptorAddress: number
  /** Guest address of the available ring. */
  readonly availableAddress: number
  /** Guest address of the used ring. */
  readonly usedAddress: number
  /** The next index to take from the available ring, 0 to 65535. */
  readonly index: number
  /** The virtio features that the guest's driver accepted. */
  readonly features: bigint
  /** Readable after the guest added buffers: an eventfd, a pipe or a socket; non-blocking. */
  readonly kickFd: number
  /** To be written (8 bytes) when buffers were used; absent when the guest polls. */
  readonly callFd?: number
  /** To be written (8 bytes) once, when the ring breaks. */
  readonly errorFd?: number
}

/** A virtio device as a vhost-user session serves it. It knows neither sockets nor messages. */
export interface VhostUserDevice {
  /** The virtio features that it offers. The transport's own bits (26 and 30) are not the device's. */
  readonly features: bigint
  /** Queues, 1 to 256. */
  readonly queueCount: number
  /** The configuration space as it is now, up to 256 bytes. What is beyond its end reads as zeros. */
  getConfig (): Uint8Array
  /**
   * A write to the configuration space. A device without this method refuses all.
   *
   * @param live the front-end migrates the guest: read-only fields may be written too.
   * @returns false when the field is not writable, or the value not valid: nothing has changed then.
   */
  setConfig? (offset: number, data: Uint8Array, live: boolean): boolean
  /** The features that the guest's driver accepted: a subset of `features`. No queue runs; may come repeatedly. @throws to refuse them */
  setFeatures (features: bigint): void
  /**
   * Starts a queue. It must look at the ring at once: buffers may wait there whose kick was read by somebody else.
   *
   * @throws when the queue cannot run: the ring is reported as broken to the front-end, and the session goes on.
   */
  startQueue (index: number, queue: QueueSetup): void | Promise<void>
  /**
   * Stops a running queue: takes no more from the ring, waits for what is in flight, touches nothing afterwards. Works
   * for a queue whose ring broke, too.
   *
   * @returns the next index to take from the available ring.
   * @throws when what is in flight does not end. The session ends then, and leaves the queue's memory mapped.
   */
  stopQueue (index: number): Promise<number>
  /** Replaces the call descriptor of a running queue. The old one is closed once this has ended. */
  setCall (index: number, fd: number | undefined): void | Promise<void>
  /** Back to the initial state: the front-end reset the device, or the session is over. All queues are stopped. */
  reset (): void | Promise<void>
}
