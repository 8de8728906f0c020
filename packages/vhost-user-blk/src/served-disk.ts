import { type DataPlane, VIRTIO_BLK_F_RO } from '@node-vmm/virtio-blk-dataplane'
import { hasFeature } from '@node-vmm/vring'
import type { Server, ServeOptions } from './serve.ts'

/** A disk that the program serves, under its name. */
export interface ServedDisk {
  readonly name: string
  /** The path of its image, or what else it is. */
  readonly image: string
  readonly options: ServeOptions
  readonly server: Server
}

/** Where front-ends connect to it. */
export function placeOf ({ socketPath, fd }: ServeOptions): string {
  return socketPath ?? `fd ${fd}`
}

/** Whether the guest may only read: for it was said so, or the disk is. */
export function isReadOnly ({ features }: DataPlane): boolean {
  return hasFeature(features, VIRTIO_BLK_F_RO)
}
