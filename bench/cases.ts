/** Where the image is. */
export type Backing = 'tmpfs' | 'disk' | 'null'

/** A load, on a disk, from a guest. */
export interface Case {
  /** Says all that differs from the other cases. */
  readonly name: string
  readonly backing: Backing
  readonly kind: 'read' | 'write'
  readonly pattern: 'random' | 'sequential'
  readonly blockBytes: number
  /** Requests in flight on each queue. */
  readonly depth: number
  /** Queues of each disk. */
  readonly queues: number
  /** Packed rings, not split ones. */
  readonly packed: boolean
  /** Disks in one server process. */
  readonly disks: number
  /** The guest looks at its ring all the time instead of being interrupted. */
  readonly polls: boolean
  readonly hugePages: boolean
  /** Regions of the guest's memory. */
  readonly regions: number
  /** Bytes of the guest's memory, sparse; 0: as much as is used. */
  readonly memoryBytes: number
  /** Part of the question how it grows: our server alone. */
  readonly growth: boolean
  /** Part of the quick run. */
  readonly quick: boolean
}

const plain: Omit<Case, 'name' | 'depth'> = {
  backing: 'tmpfs', kind: 'read', pattern: 'random', blockBytes: 4096, queues: 1, packed: false, disks: 1, polls: false, hugePages: false,
  regions: 1, memoryBytes: 0, growth: false, quick: false
}

function make (depth: number, other: Partial<Case> = {}): Case {
  const one: Omit<Case, 'name'> = { ...plain, depth, ...other }
  const { backing, kind, pattern, blockBytes, queues, packed, disks, polls, hugePages, regions, memoryBytes, growth } = one
  const parts = [
    growth && 'growth:', backing, pattern === 'sequential' ? `sequential ${kind}` : kind, `${blockBytes / 1024}K`, `depth ${depth}`,
    queues > 1 && `${queues} queues`, packed && 'packed ring', disks > 1 && `${disks} disks`, regions > 1 && `${regions} memory regions`,
    memoryBytes > 0 && `${memoryBytes / 2 ** 30} GiB guest`, hugePages && 'huge pages', polls && 'polling guest'
  ]
  return { ...one, name: parts.filter((part) => part !== false).join(' ') }
}

const grown = { growth: true }
const stream = { pattern: 'sequential', blockBytes: 128 * 1024 } as const

export const cases: readonly Case[] = [
  make(1), make(8), make(16), make(32, { quick: true }), make(128, { quick: true }),
  make(32, { kind: 'write', quick: true }), make(128, { kind: 'write' }),
  make(16, stream), make(16, { ...stream, hugePages: true }),
  make(32, { polls: true }),
  make(32, { queues: 2 }),
  make(1, { backing: 'disk' }), make(8, { backing: 'disk' }), make(32, { backing: 'disk', quick: true }), make(128, { backing: 'disk' }),
  make(32, { backing: 'disk', kind: 'write' }),
  make(16, { ...stream, backing: 'disk' }), make(16, { ...stream, backing: 'disk', hugePages: true }),
  make(32, { backing: 'null', quick: true }), make(128, { backing: 'null' }), make(128, { backing: 'null', polls: true }),
  make(32, grown), make(32, { ...grown, regions: 64 }), make(32, { ...grown, memoryBytes: 64 * 2 ** 30 }),
  make(32, { ...grown, queues: 8 }), make(32, { ...grown, disks: 16 }), make(32, { ...grown, packed: true })
]

/** Cases of one setup are served by the same processes. */
export function setupOf ({ backing, queues, packed, disks, growth }: Case): string {
  return [backing, queues, packed, disks, growth].join(' ')
}
