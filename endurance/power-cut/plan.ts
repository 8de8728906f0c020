import type { EngineName } from '@node-vmm/ioq'
import { randomNumbers } from '../../packages/ioq/src/random.ts'
import { type Cut, type Lie, MOMENTS } from './volatile-engine.ts'

/** One run: all of it comes from the seed, but for how fast things happen to go. */
export interface Plan {
  readonly seed: number
  /** The power goes, and with it what was not stable; or only the process, and what it was told to do stays done. */
  readonly how: 'power' | 'process'
  readonly queues: number
  /** Requests that the guest has in flight. */
  readonly depth: number
  /** The share of flushes among them. */
  readonly flushShare: number
  readonly writeThrough: boolean
  readonly packed: boolean
  readonly inOrder: boolean
  /** Past the page cache. */
  readonly direct: boolean
  readonly cut: Cut
}

/** What this host has. */
export interface Choices {
  readonly engines: readonly EngineName[]
  /** Whether it opens files with O_DIRECT. */
  readonly direct: boolean
  readonly lie?: Lie | undefined
}

const REQUESTS_MIN = 20
const REQUESTS_MAX = 400

/** The run of a seed. A disk that lies is one whose power goes, and in the mode that it lies in. */
export function planOf (seed: number, { engines, direct, lie }: Choices): Plan {
  const random = randomNumbers(seed)
  const choose = <Item> (items: readonly Item[]): Item => items[Math.floor(random() * items.length)]!
  const requests = REQUESTS_MIN + Math.floor(random() * (REQUESTS_MAX - REQUESTS_MIN))
  const cut: Cut = { engine: choose(engines), moment: choose(MOMENTS), requests, seed, lie }
  const plan: Plan = {
    seed,
    how: random() < 0.2 ? 'process' : 'power',
    queues: 1 + Math.floor(random() * 4),
    depth: choose([1, 4, 16, 48]),
    flushShare: choose([0.02, 0.1, 0.3]),
    writeThrough: random() < 0.25,
    packed: random() < 0.5,
    inOrder: random() < 0.25,
    // What copies has no disk to go to.
    direct: random() < 0.5 && direct && cut.engine !== 'mapped',
    cut
  }
  return lie === undefined ? plan : { ...plan, how: 'power', writeThrough: lie === 'forgets durable writes' }
}
