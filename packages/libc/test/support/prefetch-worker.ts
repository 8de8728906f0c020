// Run by prefetch.test.ts: a thread that has a list prefetched, and ends.
import { workerData } from 'node:worker_threads'
import { prefetch } from '@node-vmm/libc'

prefetch(workerData as number, 1)
