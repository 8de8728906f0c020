import type { Disk } from '@node-vmm/virtio-blk-dataplane'
import { NEVER } from './concurrency.ts'
import { DiskError } from './errors.ts'
import { type Base, nameOf, openBase, readBase } from './overlay-base.ts'
import { OverlayFile, type Run } from './overlay-file.ts'
import { ABSENT, PRESENT, ZERO } from './overlay-format.ts'
import { raw } from './raw.ts'
import { PIECE_BYTES, zeroes } from './segments.ts'

/** What to commit, and to where. */
export interface CommitOptions {
  /** The overlay's file. */
  readonly file: string
  /** The base: a disk that can be written, left open, or the path of a raw image. @default the raw image that the file names */
  readonly base?: Base
  /** Gives it up, with the signal's reason, as if it had been interrupted. @default never */
  readonly signal?: AbortSignal
}

/**
 * Writes into the base what the overlay has, and empties the overlay, as `qemu-img commit` does. Nobody may use either
 * meanwhile, and every other overlay over this base is worthless afterwards: what it took from the base has changed.
 *
 * If it is interrupted, do it again: the overlay is emptied when the base has everything, durably.
 *
 * @throws DiskError ERR_OVERLAY, ERR_OVERLAY_BASE, ERR_DISK_LOCKED; what the disks throw; the signal's reason
 */
export async function commit ({ file, base: given, signal = NEVER }: CommitOptions): Promise<void> {
  signal.throwIfAborted()
  await withOverlay(file, async (overlay) => {
    await withBase(openBase(given, overlay, false), given, async (base) => {
      checkCommit(overlay, base)
      for (const run of pieces(overlay)) await commitPiece(overlay, run, base, signal)
      await base.flush?.(signal)
      signal.throwIfAborted()
      await overlay.changeHeader({ baseSize: base.capacity })
      await overlay.empty()
    })
  })
}

function checkCommit ({ path, header }: OverlayFile, base: Disk): void {
  const { baseSize, capacity } = header
  if (base.write === undefined || base.readOnly === true) throw new DiskError('ERR_OVERLAY_BASE', 'the base cannot be written: open it for writing to commit to it')
  if (base.capacity !== baseSize && base.capacity !== capacity) {
    throw new DiskError('ERR_OVERLAY_BASE', `the overlay ${path} was made over a base of ${baseSize} bytes: this one has ${base.capacity}. Give it the base as it was.`)
  }
  if (base.capacity < capacity) {
    throw new DiskError('ERR_OVERLAY_BASE', `the overlay ${path} has ${capacity} bytes, more than its base, ${base.capacity}. Extend the base first: truncate -s ${capacity} BASE`)
  }
}

async function commitPiece (overlay: OverlayFile, { state, offset, length }: Run, base: Disk, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  if (state === ABSENT) return
  if (state === ZERO && base.writeZeroes !== undefined) return base.writeZeroes(offset, length, true, signal)
  if (state === ZERO) return base.write!(offset, zeroes(length), signal)
  const bytes = new Uint8Array(length)
  await overlay.file.read(overlay.position(offset), [bytes])
  await base.write!(offset, [bytes], signal)
}

/** What to rebase, and onto what. */
export interface RebaseOptions {
  /** The overlay's file. */
  readonly file: string
  /** The base that it had: a disk, left open, or the path of a raw image. Means nothing where it is not `safe`. @default the raw image that the file names */
  readonly base?: Base
  /** The base that it is to have: a disk, left open, or the path of a raw image. */
  readonly newBase: Base
  /**
   * Copy into the overlay what the two bases differ in, so that the disk stays as it is. Otherwise only the file's entry is
   * changed: for a base that was moved, or of which you know that it is the same. @default true
   */
  readonly safe?: boolean
  /** Gives it up, with the signal's reason, as if it had been interrupted. @default never */
  readonly signal?: AbortSignal
}

/**
 * Sets an overlay on another base, as `qemu-img rebase` does. Nobody may use it meanwhile. If it is interrupted, the
 * overlay still has its old base, and reads as it did.
 *
 * @throws DiskError ERR_OVERLAY, ERR_OVERLAY_BASE, ERR_DISK_LOCKED; what the disks throw; the signal's reason
 */
export async function rebase ({ file, base: given, newBase, safe = true, signal = NEVER }: RebaseOptions): Promise<void> {
  signal.throwIfAborted()
  await withOverlay(file, async (overlay) => {
    const opened = typeof newBase === 'string' ? raw({ path: newBase, readOnly: true }) : newBase
    await withBase(opened, newBase, async (next) => {
      if (safe) await withBase(openBase(given, overlay, true), given, (base) => copyDifferences(overlay, base, next, signal))
      await overlay.changeHeader({ baseName: nameOf(newBase), baseSize: next.capacity })
    })
  })
}

async function copyDifferences (overlay: OverlayFile, base: Disk, next: Disk, signal: AbortSignal): Promise<void> {
  const { baseSize, clusterSize } = overlay.header
  if (base.capacity !== baseSize) {
    throw new DiskError('ERR_OVERLAY_BASE', `the overlay ${overlay.path} was made over a base of ${baseSize} bytes: this one has ${base.capacity}. ` +
      'Give it the base as it was, or, if the new one is known to be the same, rebase with safe: false.')
  }
  const was = Buffer.alloc(clusterSize)
  const becomes = Buffer.alloc(clusterSize)
  for (const run of pieces(overlay)) {
    if (run.state !== ABSENT) continue
    for (let cluster = overlay.clusterAt(run.offset); overlay.startOf(cluster) < run.offset + run.length; cluster++) {
      const start = overlay.startOf(cluster)
      const length = overlay.endOf(cluster) - start
      signal.throwIfAborted()
      await readBase(base, start, [was.subarray(0, length)], signal)
      await readBase(next, start, [becomes.subarray(0, length)], signal)
      if (was.compare(becomes, 0, length, 0, length) === 0) continue
      await overlay.file.write(overlay.position(start), [was.subarray(0, length)])
      overlay.map.set(cluster, PRESENT)
    }
  }
  await overlay.flush()
}

/** Runs of an overlay's clusters, cut to whole clusters of no more than can be held in memory at once. */
function * pieces (overlay: OverlayFile): Generator<Run> {
  const { capacity, clusterSize } = overlay.header
  const step = Math.max(PIECE_BYTES, clusterSize)
  for (let offset = 0; offset < capacity; offset += step) yield * overlay.runs(offset, Math.min(step, capacity - offset))
}

async function withOverlay (path: string, work: (overlay: OverlayFile) => Promise<void>): Promise<void> {
  const overlay = await OverlayFile.open(path)
  try {
    await work(overlay)
  } finally {
    overlay.close()
  }
}

/** Closes the base afterwards, unless it was given as a disk. */
async function withBase (base: Disk, given: Base | undefined, work: (base: Disk) => Promise<void>): Promise<void> {
  try {
    await work(base)
  } finally {
    if (base !== given) await base.close?.()
  }
}
