// A server and a driver from the installed packages: the data-plane thread included.
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import { serve } from '@node-vmm/vhost-user-blk'
import { truncateSync, writeFileSync } from 'node:fs'

writeFileSync('disk.img', '')
truncateSync('disk.img', 1 << 20)
const server = await serve({ path: 'disk.img', socketPath: 'disk.sock', serial: 'consumer' })
const driver = await BlockDriver.connect({ socketPath: 'disk.sock' })
await driver.write(4096, Buffer.alloc(4096, 'pattern'))
await driver.flush()
const read = await driver.read(4096, 4096)
if (!Buffer.from(read).equals(Buffer.alloc(4096, 'pattern'))) throw new Error('read back something else')
console.log(`read back: ${read.length} bytes, serial ${await driver.getId()}`)
await driver.close()
await server.close()
