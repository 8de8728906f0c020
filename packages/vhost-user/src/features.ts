/**
 * Virtio-level feature bits that belong to the transport: vhost-user took two that no device uses. The session offers
 * and hides them; a device never sees them.
 */
export const TransportFeature = {
  /** Writes to guest memory are marked in a log, for live migration (VHOST_F_LOG_ALL). */
  LOG_ALL: 1n << 26n,
  /** Protocol features can be negotiated, and rings start disabled (VHOST_USER_F_PROTOCOL_FEATURES). */
  PROTOCOL_FEATURES: 1n << 30n
} as const

/** Protocol feature bits ("Protocol features"), by the specification's names. */
export const ProtocolFeature = {
  MQ: 1n << 0n,
  LOG_SHMFD: 1n << 1n,
  RARP: 1n << 2n,
  REPLY_ACK: 1n << 3n,
  MTU: 1n << 4n,
  BACKEND_REQ: 1n << 5n,
  CROSS_ENDIAN: 1n << 6n,
  CRYPTO_SESSION: 1n << 7n,
  PAGEFAULT: 1n << 8n,
  CONFIG: 1n << 9n,
  BACKEND_SEND_FD: 1n << 10n,
  HOST_NOTIFIER: 1n << 11n,
  INFLIGHT_SHMFD: 1n << 12n,
  RESET_DEVICE: 1n << 13n,
  INBAND_NOTIFICATIONS: 1n << 14n,
  CONFIGURE_MEM_SLOTS: 1n << 15n,
  STATUS: 1n << 16n,
  XEN_MMAP: 1n << 17n,
  SHARED_OBJECT: 1n << 18n,
  DEVICE_STATE: 1n << 19n,
  GET_VRING_BASE_INFLIGHT: 1n << 20n,
  GPA_ADDRESSES: 1n << 21n,
  SHMEM_MAP: 1n << 22n
} as const

/**
 * The protocol features that a back-end session offers at most: LOG_SHMFD only for a device that logs the pages it
 * writes, INFLIGHT_SHMFD only for one that keeps records of what is in flight.
 */
export const OFFERED_PROTOCOL_FEATURES: bigint =
  ProtocolFeature.MQ | ProtocolFeature.LOG_SHMFD | ProtocolFeature.REPLY_ACK | ProtocolFeature.BACKEND_REQ |
  ProtocolFeature.CONFIG | ProtocolFeature.INFLIGHT_SHMFD | ProtocolFeature.RESET_DEVICE |
  ProtocolFeature.CONFIGURE_MEM_SLOTS | ProtocolFeature.STATUS

/** The names of the protocol features in a mask; a bit without a name is `'bit 40'`. */
export function protocolFeatureNames (mask: bigint): string[] {
  const names = new Map<bigint, string>(Object.entries(ProtocolFeature).map(([name, bit]) => [bit, name]))
  return Array.from({ length: 64 }, (_, bit) => bit)
    .filter((bit) => (mask >> BigInt(bit) & 1n) === 1n)
    .map((bit) => names.get(1n << BigInt(bit)) ?? `bit ${bit}`)
}
