import type { HostSlice } from '@node-vmm/hostmem'
import { addSeals, close, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, ftruncate, memfdCreate } from '@node-vmm/libc'
import { refused } from './errors.ts'
import type { InflightDescription } from './payload.ts'
import { RING_SIZE_MAX } from './ring.ts'
import { SharedArea } from './shared-area.ts'

/** What each record is aligned to: a cache line. */
const RECORD_ALIGNMENT = 64

/** @throws VhostUserError for more queues than the device has, or none, or rings that there are not */
export function checkInflight ({ queues, queueSize }: InflightDescription, queueCount: number): void {
  if (queues < 1 || queues > queueCount) throw refused(`records of ${queues} queues: the device has ${queueCount}`)
  if (queueSize < 1 || queueSize > RING_SIZE_MAX) throw refused(`records of rings of ${queueSize}: 1 to ${RING_SIZE_MAX} are possible`)
}

/** A new file for records: zeros, and nobody can change its size, or that. @throws LinuxError */
export function createInflightFile (size: number): number {
  const fd = memfdCreate('vhost-user-inflight')
  try {
    ftruncate(fd, size)
    addSeals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
    return fd
  } catch (error) {
    close(fd)
    throw error
  }
}

/**
 * The records of what is in flight ("Inflight I/O tracking"), one after the other, in a file that outlives this
 * process: the front-end keeps it, and gives it to the next one.
 */
export class InflightRegion {
  readonly #area: SharedArea
  readonly #queues: number
  readonly #queueSize: number

  /** Maps it; `fd` is borrowed. @throws VhostUserError, GuestMemoryError, LinuxError */
  constructor (fd: number, description: InflightDescription) {
    this.#area = new SharedArea(fd, description, RECORD_ALIGNMENT)
    this.#queues = description.queues
    this.#queueSize = description.queueSize
  }

  /**
   * One queue's record; undefined when the region has none for it, or the device keeps none.
   *
   * @param bytesOf bytes of a record for a ring of a size, as the features are now.
   * @throws VhostUserError when the ring, or what its features need, does not fit
   */
  record (queue: number, ringSize: number, bytesOf: (queueSize: number) => number): HostSlice | undefined {
    const length = bytesOf(this.#queueSize)
    if (queue >= this.#queues || length === 0) return undefined
    if (ringSize > this.#queueSize) throw refused(`a ring of ${ringSize}, but the in-flight region is for rings of ${this.#queueSize}`)
    const end = (queue + 1) * length
    if (end > this.#area.length) throw refused(`the in-flight region has ${this.#area.length} bytes: record ${queue} ends at ${end}`)
    return { address: this.#area.address + queue * length, length }
  }

  /** One holder more. */
  retain (): void {
    this.#area.retain()
  }

  /** One holder less; the last one unmaps. */
  release (): void {
    this.#area.release()
  }
}
