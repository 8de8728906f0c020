import { DRIVER_FEATURES } from './features.ts'
import { VIRTIO_BLK_F_MQ } from '@node-vmm/virtio-blk'
import { VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, featureMask, hasFeature } from '@node-vmm/vring'
import { type FrontEnd, ProtocolFeature, TransportFeature } from '@node-vmm/vhost-user'
import { BlockDriverError } from './errors.ts'

const WANTED_PROTOCOL_FEATURES = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG

/** What a driver wants of a server. */
export interface Wishes {
  readonly queues: number
  /** Virtio features to agree to where they are offered: a mask. @default DRIVER_FEATURES */
  readonly features?: bigint
  /** @default false */
  readonly packed?: boolean
  /** @default false */
  readonly inOrder?: boolean
  /** Have the server keep a record of what is in flight, where it can. */
  readonly inflightRecord: boolean
}

/**
 * Agrees on protocol features.
 *
 * @returns the virtio features that the server offers
 * @throws BlockDriverError ERR_BLOCK_NEGOTIATION for a server that is no disk, or has too few queues
 */
export async function agreeOnProtocol (frontEnd: FrontEnd, { queues, inflightRecord }: Wishes): Promise<bigint> {
  await frontEnd.setOwner()
  const offered = await frontEnd.getFeatures()
  if ((offered & TransportFeature.PROTOCOL_FEATURES) === 0n) throw disagreement('the server has no protocol features: a disk needs CONFIG')
  const wanted = WANTED_PROTOCOL_FEATURES | (inflightRecord ? ProtocolFeature.INFLIGHT_SHMFD : 0n)
  const protocol = await frontEnd.getProtocolFeatures() & wanted
  if ((protocol & ProtocolFeature.CONFIG) === 0n) throw disagreement('the server has no configuration space: is it a disk?')
  await frontEnd.setProtocolFeatures(protocol)
  const most = (protocol & ProtocolFeature.MQ) === 0n ? 1 : await frontEnd.getQueueNum()
  if (queues > most) throw disagreement(`the server has ${most} queues: ${queues} are asked for`)
  return offered
}

/** The virtio features that both sides have and want. @throws BlockDriverError ERR_BLOCK_NEGOTIATION for what only this side has */
export function agreedFeatures (offered: bigint, { queues, features = DRIVER_FEATURES, packed = false, inOrder = false }: Wishes): bigint {
  const choices = [
    { bit: VIRTIO_F_VERSION_1, isWanted: true, text: 'VIRTIO_F_VERSION_1: older devices are not driven' },
    { bit: VIRTIO_F_RING_PACKED, isWanted: packed, text: 'packed rings (VIRTIO_F_RING_PACKED): connect without `packed`' },
    { bit: VIRTIO_F_IN_ORDER, isWanted: inOrder, text: 'requests in order (VIRTIO_F_IN_ORDER): connect without `inOrder`' }
  ]
  let wanted = features
  for (const { bit, isWanted, text } of choices) {
    if (isWanted && !hasFeature(offered, bit)) throw disagreement(`the server does not offer ${text}`)
    wanted = isWanted ? wanted | featureMask(bit) : wanted & ~featureMask(bit)
  }
  const agreed = offered & wanted
  if (queues > 1 && !hasFeature(agreed, VIRTIO_BLK_F_MQ)) throw disagreement(`${queues} queues need VIRTIO_BLK_F_MQ`)
  return agreed
}

/** No common ground. */
export function disagreement (message: string): BlockDriverError {
  return new BlockDriverError('ERR_BLOCK_NEGOTIATION', message)
}
