import { parentPort } from 'node:worker_threads'
import { type LinuxError, O_RDONLY, open, threadId } from '@node-vmm/libc'

let code = ''
try {
  open('/no/such/file', O_RDONLY)
} catch (error) {
  code = (error as LinuxError).code
}
parentPort!.postMessage({ id: threadId(), code })
