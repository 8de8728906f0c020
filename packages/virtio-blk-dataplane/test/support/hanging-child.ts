// Run by abandon.test.ts: the data-plane thread is in a system call that does not return.
import { dirname } from 'node:path'
import { DataPlane, VIRTIO_BLK_T_IN } from '../../src/index.ts'
import { BlockingPipe } from './blocking-engine.ts'
import { Guest } from './guest.ts'

const path = process.argv[2]!
const pipe = new BlockingPipe(dirname(path))
const plane = DataPlane.create({ path, engine: pipe.engine })
const guest = new Guest()
await plane.start([guest.setup])
void guest.request(VIRTIO_BLK_T_IN, 0, { writable: [{ address: guest.allocate(512), length: 512 }] })
while (!pipe.hasReader) await new Promise((resolve) => setTimeout(resolve, 5))
process.on('exit', () => console.log('a handler'))
await plane.close({ timeout: 100 }).catch(({ code }) => console.log(code === 'ERR_ABANDONED' ? 'given up' : code))
guest.close()
process.exitCode = 3
