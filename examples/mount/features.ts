import * as driver from '@node-vmm/virtio-blk-driver'

const PREFIX = /^VIRTIO_(?:BLK_)?F_/

/** The names of all feature bits that the driver knows, by bit: virtio 1.2, 5.2.3 and 6. */
const names = Object.entries(driver)
  .filter(([name]) => PREFIX.test(name))
  .map(([name, bit]) => ({ name: name.replace(PREFIX, ''), bit: Number(bit) }))
  .sort((a, b) => a.bit - b.bit)

/** What was agreed on with the server, by the specification's names. */
export function featureNames (features: bigint): string[] {
  return names.filter(({ bit }) => driver.hasFeature(features, bit)).map(({ name }) => name)
}
