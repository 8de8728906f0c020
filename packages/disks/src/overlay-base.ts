import type { Disk, Segments } from '@node-vmm/virtio-blk-dataplane'
import { dirname, resolve } from 'node:path'
import { DiskError } from './errors.ts'
import type { OverlayFile } from './overlay-file.ts'
import { raw } from './raw.ts'
import { bytesOf, clear, slice } from './segments.ts'

/** What an overlay stands on: any disk, or the path of a raw image, which is opened read-only and whose path the overlay keeps. */
export type Base = Disk | string

/** The name that an overlay keeps of its base. */
export function nameOf (base: Base): string {
  return typeof base === 'string' ? resolve(base) : ''
}

/** The base as a disk: the given one, else the raw image that the overlay names. @throws DiskError ERR_OVERLAY_BASE; what `raw` throws */
export function openBase (base: Base | undefined, overlay: OverlayFile, readOnly: boolean): Disk {
  if (typeof base === 'object') return base
  const { baseName } = overlay.header
  const path = base ?? (baseName === '' ? undefined : resolve(dirname(overlay.path), baseName))
  if (path === undefined) {
    throw new DiskError('ERR_OVERLAY_BASE', `the overlay ${overlay.path} was made over a disk that has no path: say which base it has`)
  }
  return raw({ path, readOnly })
}

/** Fills the segments from a base, which may end before the overlay does: there are zeroes then. */
export async function readBase (base: Disk, offset: number, segments: Segments, signal: AbortSignal): Promise<void> {
  const length = bytesOf(segments)
  const inside = Math.max(0, Math.min(length, base.capacity - offset))
  if (inside > 0) await base.read(offset, slice(segments, 0, inside), signal)
  if (inside < length) clear(slice(segments, inside, length - inside))
}
