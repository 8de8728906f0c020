// The other thread of the test 'another thread attaches to the map'.
import { parentPort, workerData } from 'node:worker_threads'
import { GuestMemory, type GuestMemoryError } from '../../src/index.ts'

const memory = GuestMemory.attach(workerData)
memory.write(0x1000, Buffer.from('pong'))
let change = 'none'
try {
  memory.without(memory.regions[0]!)
} catch (error) {
  change = (error as GuestMemoryError).code
}
parentPort!.postMessage({ read: Buffer.from(memory.read(0x100000, 4)).toString(), change })
memory.release()
