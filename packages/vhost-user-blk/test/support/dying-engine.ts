import { eventfd } from '@node-vmm/libc'
import type { EngineFactory } from '@node-vmm/virtio-blk-dataplane'

/** An engine with a bug: it throws where it must not, on the data-plane thread. */
const dyingEngine: EngineFactory = ({ depth }) => ({
  name: 'dying',
  depth,
  completionFd: eventfd(),
  systemCalls: 0,
  submit () { throw new Error('a bug in the engine') },
  reap () {},
  close () {}
})

export default dyingEngine
