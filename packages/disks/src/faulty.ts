import type { Disk } from '@node-vmm/virtio-blk-dataplane'
import { setTimeout as sleep } from 'node:timers/promises'
import { DiskError } from './errors.ts'
import type { OpenedDisk } from './opened-disk.ts'
import { randomNumbers } from './random.ts'
import { type DiskRequest, wrap } from './wrap.ts'

/** What goes wrong with a request: the words of the `FaultPlan` of `@node-vmm/ioq/testing`. */
export type DiskFault =
  /** It is not done and fails. */
  | {
    readonly kind: 'error'
    /** The error's code: `'ENOTSUP'` is told to the guest as "unsupported", anything else as an I/O error. @default 'EIO' */
    readonly code?: string
  }
  /** Half of it is done, whole blocks, then it fails: a torn write. Nothing is done of one block, or of a flush. */
  | { readonly kind: 'short' }
  /** It is done so many milliseconds later, 0 to 2^31 - 1. */
  | { readonly kind: 'late', readonly milliseconds: number }
  /** It is not done and never completes, until its queue is stopped by force. */
  | { readonly kind: 'never' }

/** Which requests a fault is for. */
export interface DiskFaultRule {
  /** What is to go wrong. */
  readonly fault: DiskFault
  /** The kind of request. @default every operation */
  readonly operation?: DiskRequest['operation']
  /** Exactly this request, counted from 0 among those that `operation` and the range allow. @default every request */
  readonly at?: number
  /** Chance of each request, 0 to 1. @default 1 */
  readonly probability?: number
  /** Only what touches the bytes from here on; no flush. @default 0 */
  readonly offset?: number
  /** Only what touches so many bytes from `offset` on; no flush. @default up to the end */
  readonly length?: number
}

/** What is to go wrong. */
export interface FaultyOptions {
  /** Owned by the faulty disk from then on. */
  readonly disk: Disk
  /** The first rule that fits a request counts. */
  readonly rules: readonly DiskFaultRule[]
  /** Makes the random choices repeatable. @default a random one, which is printed to standard error */
  readonly seed?: number
}

/** A disk that fails as planned, to test what guests and programs make of it. Not for anything else. @throws DiskError ERR_DISK_OPTION */
export function faulty ({ disk, rules, seed = chooseSeed() }: FaultyOptions): OpenedDisk {
  rules.forEach(checkRule)
  const random = randomNumbers(seed)
  const seen = rules.map(() => 0)

  function draw (request: DiskRequest): DiskFault | undefined {
    let drawn: DiskFault | undefined
    rules.forEach((rule, index) => {
      if (!applies(rule, request)) return
      const position = seen[index]!++
      if (drawn !== undefined || (rule.at !== undefined && rule.at !== position)) return
      if (rule.probability === undefined || random() < rule.probability) drawn = rule.fault
    })
    return drawn
  }

  return wrap(disk, (request, pass) => {
    const fault = draw(request)
    return fault === undefined ? pass() : commitFault(fault, request, pass, disk.blockSize ?? 512)
  })
}

function chooseSeed (): number {
  const seed = Math.floor(Math.random() * 0x100000000)
  console.error(`faulty disk: give it seed=${seed} to have the same faults again`)
  return seed
}

function checkRule ({ fault, probability = 1 }: DiskFaultRule): void {
  if (!(probability >= 0 && probability <= 1)) throw new DiskError('ERR_DISK_OPTION', `a probability is from 0 to 1: not ${probability}`)
  if (!['error', 'short', 'late', 'never'].includes(fault.kind)) throw new DiskError('ERR_DISK_OPTION', `there is no fault '${fault.kind}': error, short, late or never`)
  if (fault.kind === 'late' && !(fault.milliseconds >= 0 && fault.milliseconds < 2 ** 31)) {
    throw new DiskError('ERR_DISK_OPTION', `late is for 0 to 2^31 - 1 milliseconds: not ${fault.milliseconds}`)
  }
}

function applies (rule: DiskFaultRule, { operation, offset, length }: DiskRequest): boolean {
  if (rule.operation !== undefined && rule.operation !== operation) return false
  if (rule.offset === undefined && rule.length === undefined) return true
  const { offset: from = 0, length: bytes = Infinity } = rule
  return length > 0 && offset < from + bytes && offset + length > from
}

async function commitFault (fault: DiskFault, { operation, length, signal }: DiskRequest, pass: (length?: number) => void | Promise<void>, blockSize: number): Promise<void> {
  if (fault.kind === 'late') {
    await sleep(fault.milliseconds, undefined, { signal })
    return pass()
  }
  if (fault.kind === 'never') return aborted(signal)
  if (fault.kind === 'short') {
    const half = Math.floor(length / 2 / blockSize) * blockSize
    if (half > 0) await pass(half)
  }
  const code = fault.kind === 'error' ? fault.code ?? 'EIO' : 'EIO'
  throw Object.assign(new DiskError('ERR_DISK_FAULT', `this ${operation} was to fail: ${code}`), { code })
}

function aborted (signal: AbortSignal): Promise<void> {
  return new Promise((_resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
