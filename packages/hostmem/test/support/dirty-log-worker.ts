// Run by dirty-log.test.ts: marks every second page of a log.
import { workerData } from 'node:worker_threads'
import { DirtyLog } from '../../src/index.ts'

const { address, bytes, first } = workerData as { address: number, bytes: number, first: number }
const log = new DirtyLog(address, bytes)
for (let page = first; page < bytes * 8; page += 2) log.mark(page * 4096, 1)
