import { fileStatus, mmap, munmap, PROT_READ, PROT_WRITE } from '@node-vmm/libc'
import { GuestMemoryError } from './errors.ts'

/** A range of this process's memory, unmapped when its last holder lets go, unless it is borrowed. */
export class Mapping {
  /** Host address of the first byte asked for. */
  readonly address: number
  readonly #start: number
  readonly #length: number
  #holders = 1

  private constructor (address: number, start: number, length: number) {
    this.address = address
    this.#start = start
    this.#length = length
  }

  /** Maps `size` bytes at `offset` of the file, shared. @throws GuestMemoryError past its end, or for no regular file; LinuxError */
  static create (fd: number, offset: number, size: number, readOnly: boolean): Mapping {
    const status = fileStatus(fd)
    // The end of a device is not known. That of /dev/zero is as far as was mapped, counted from its beginning: with an offset
    // the last pages are behind it.
    if (status.kind !== 'file') {
      throw new GuestMemoryError('ERR_REGION_NO_FILE', `a region is backed by a regular file, of memfd_create(2), tmpfs or hugetlbfs: not by ${what(status.kind)}`)
    }
    if (offset + size > status.size) {
      throw new GuestMemoryError('ERR_REGION_BEYOND_FILE',
        `${size} bytes at offset ${offset} reach past the end of the file, which has ${status.size} bytes`)
    }
    // Whole pages of the file's own page size: on hugetlbfs mmap and munmap accept nothing else.
    const page = Math.max(4096, status.blockSize)
    const slack = offset % page
    const length = Math.ceil((slack + size) / page) * page
    const start = mmap({ fd, offset: offset - slack, length, protection: readOnly ? PROT_READ : PROT_READ | PROT_WRITE })
    return new Mapping(start + slack, start, length)
  }

  /** Memory that somebody else mapped, and unmaps. */
  static borrow (address: number): Mapping {
    return new Mapping(address, address, 0)
  }

  retain (): this {
    this.#holders++
    return this
  }

  release (): void {
    if (--this.#holders === 0 && this.#length > 0) munmap(this.#start, this.#length)
  }
}

function what (kind: string): string {
  return kind === 'other' ? 'a descriptor of another kind' : `a ${kind}`
}
