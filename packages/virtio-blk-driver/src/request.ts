import { VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN } from '@node-vmm/virtio-blk'

/** What the status byte holds before the disk writes it: no status of the specification. */
export const STATUS_PENDING = 0xff

/** Whether the data of a request goes from the disk to the driver. */
export function readsFromDisk (type: number): boolean {
  return type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID
}
