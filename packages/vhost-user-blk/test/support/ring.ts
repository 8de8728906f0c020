import { close, eventfd, ftruncate, memfdCreate } from '@node-vmm/libc'
import { FrontEnd, OFFERED_PROTOCOL_FEATURES, TransportFeature } from '@node-vmm/vhost-user'
import { writeSync } from 'node:fs'

const VERSION_1 = 1n << 32n
const SIZE = 16
const AVAILABLE = 0x1000
const USED = 0x2000

/** A front-end with one ring of its own, all zeros, which it can fill by hand. */
export class RingFrontEnd {
  readonly frontEnd: FrontEnd
  readonly #memory = memfdCreate('ring')
  readonly #kick = eventfd()

  constructor (socketPath: string) {
    this.frontEnd = FrontEnd.connect(socketPath)
    ftruncate(this.#memory, 0x10000)
  }

  /** @param options whether it passes on its memory, as it must: true by default */
  async start ({ sharesMemory = true } = {}): Promise<void> {
    const { frontEnd } = this
    await frontEnd.setProtocolFeatures(OFFERED_PROTOCOL_FEATURES)
    await frontEnd.setFeatures(VERSION_1 | TransportFeature.PROTOCOL_FEATURES)
    if (sharesMemory) await frontEnd.setMemTable([{ guestAddress: 0, size: 0x10000, fd: this.#memory }])
    await frontEnd.setVringNum(0, SIZE)
    await frontEnd.setVringAddr(0, { descriptor: 0, available: AVAILABLE, used: USED })
    await frontEnd.setVringKick(0, this.#kick)
    await frontEnd.setVringEnable(0, true)
  }

  /** Starts the ring anew, where it stopped. */
  async restart (): Promise<void> {
    await this.frontEnd.setVringEnable(0, false)
    await this.frontEnd.setVringEnable(0, true)
  }

  /** Says that more chains are available than the ring has descriptors, and kicks. */
  misbehave (): void {
    writeSync(this.#memory, Uint16Array.of(0x7000), 0, 2, AVAILABLE + 2)
    writeSync(this.#kick, BigUint64Array.of(1n))
  }

  close (): void {
    this.frontEnd.close()
    close(this.#memory)
    close(this.#kick)
  }
}
