// npm install @node-vmm/vring @node-vmm/hostmem
// A virtqueue, both sides of it: a driver sends text, a device answers in capitals. Nothing but memory is between them.
import { GuestMemory } from '@node-vmm/hostmem'
import { DescriptorChain, SplitVring } from '@node-vmm/vring'
import { DriverRing, layOutRing } from '@node-vmm/vring/driver'
import { closeSync } from 'node:fs'

const { memory, fd } = GuestMemory.allocate([{ guestAddress: 0, size: 0x10000 }])
closeSync(fd)
const layout = layOutRing(0, 8) // 8 descriptors at address 0; buffers from 0x1000 on
const driver = new DriverRing(memory, layout)
const device = new SplitVring(memory, layout)

// The device: pops what the driver made available, answers, and shows it all at once.
const chain = new DescriptorChain(memory)
const text = new Uint8Array(32)
function kicked (): void {
  do {
    device.disableNotification()
    while (device.pop(chain) === 'chain') {
      const request = text.subarray(0, chain.copyReadable(text))
      device.push(chain.head, chain.copyToWritable(Buffer.from(Buffer.from(request).toString().toUpperCase())))
    }
  } while (device.enableNotification() === 'more')
  device.publish()
}

// The driver: two buffers a request, one to read and one to write. A kick would be an eventfd; here it is a call.
const requests = ['a virtqueue', 'in thirty lines', 'of typescript']
requests.forEach((request, index) => {
  memory.write(0x1000 + 64 * index, Buffer.from(request))
  driver.add([{ address: 0x1000 + 64 * index, length: request.length }], [{ address: 0x1020 + 64 * index, length: 32 }], index)
})
driver.publish()
if (driver.needsKick()) kicked()
while (driver.pollUsed() >= 0) {
  const answer = memory.read(0x1020 + 64 * driver.usedToken, driver.usedLength)
  console.log(`${requests[driver.usedToken]} -> ${Buffer.from(answer).toString()}`)
}
memory.release()
