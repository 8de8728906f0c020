// PCI's configuration space of a modern virtio device (virtio 1.2, 4.1.2 and 4.1.4), with all of its registers in one
// range of 256 I/O ports. The capability for access through the configuration space itself is left out: v86 does not
// tell a device when the guest reads or writes there.

/** Bytes of the range of I/O ports. */
export const BAR_BYTES = 256
/** What is at which port of the range. */
export const COMMON = 0x00
export const ISR = 0x40
export const NOTIFY = 0x44
export const DEVICE = 0x80

const VIRTIO_VENDOR = 0x1af4
const MODERN_DEVICE = 0x1040
const SPACE_BYTES = 256

// Places in the configuration space.
const VENDOR_ID = 0x00
const DEVICE_ID = 0x02
const STATUS = 0x06
const REVISION = 0x08
const CLASS = 0x0b
const BAR_0 = 0x10
const SUBSYSTEM_VENDOR_ID = 0x2c
const SUBSYSTEM_ID = 0x2e
const CAPABILITIES = 0x34
const INTERRUPT_PIN = 0x3d
const FIRST_CAPABILITY = 0x40

const STATUS_HAS_CAPABILITIES = 0x10
const CLASS_STORAGE = 1
const BAR_IS_PORTS = 1
const PIN_A = 1
const VENDOR_CAPABILITY = 9
const CAPABILITY_BYTES = 16

/** Type, place and length of each structure. The notification's has one more field, the distance of the queues' registers: 0. */
const structures = [
  { type: 1, offset: COMMON, length: 0x38, more: 0 },
  { type: 2, offset: NOTIFY, length: 2, more: 4 },
  { type: 3, offset: ISR, length: 1, more: 0 },
  { type: 4, offset: DEVICE, length: 0x60, more: 0 }
]

/** @param deviceType virtio's number for it: 2 is a block device. @param port the first of the I/O ports, until the guest moves them */
export function configurationSpace (deviceType: number, port: number): Uint8Array {
  const space = new DataView(new ArrayBuffer(SPACE_BYTES))
  space.setUint16(VENDOR_ID, VIRTIO_VENDOR, true)
  space.setUint16(DEVICE_ID, MODERN_DEVICE + deviceType, true)
  space.setUint16(STATUS, STATUS_HAS_CAPABILITIES, true)
  space.setUint8(REVISION, 1)
  space.setUint8(CLASS, CLASS_STORAGE)
  space.setUint32(BAR_0, port | BAR_IS_PORTS, true)
  space.setUint16(SUBSYSTEM_VENDOR_ID, VIRTIO_VENDOR, true)
  space.setUint16(SUBSYSTEM_ID, MODERN_DEVICE + deviceType, true)
  space.setUint8(CAPABILITIES, FIRST_CAPABILITY)
  space.setUint8(INTERRUPT_PIN, PIN_A)
  let at = FIRST_CAPABILITY
  for (const [index, { type, offset, length, more }] of structures.entries()) {
    const bytes = CAPABILITY_BYTES + more
    const next = index === structures.length - 1 ? 0 : at + bytes
    space.setUint8(at, VENDOR_CAPABILITY)
    space.setUint8(at + 1, next)
    space.setUint8(at + 2, bytes)
    space.setUint8(at + 3, type)
    space.setUint32(at + 8, offset, true)
    space.setUint32(at + 12, length, true)
    at = next
  }
  return new Uint8Array(space.buffer)
}
