// A thread that ends right after it had a context ended in the background.
import { ioDestroyInBackground, ioSetup, NativeMemory } from '@node-vmm/libc'
import { parentPort } from 'node:worker_threads'

const memory = new NativeMemory(8)
const made = ioSetup(1, memory.address)
if (made === 0) ioDestroyInBackground(memory.getUint64(0))
memory.close()
parentPort!.postMessage(made)
