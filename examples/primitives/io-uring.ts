// npm install @node-vmm/ioq @node-vmm/libc
// io_uring: counts a file's lines, reading 32 blocks of it at a time. Where the host forbids io_uring: Linux AIO.
import { IoQueue } from '@node-vmm/ioq'
import { NativeMemory, watchReadable } from '@node-vmm/libc'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

const DEPTH = 32
const BLOCK = 64 << 10
const path = process.argv[2] ?? process.execPath
const fd = openSync(path, 'r')
const size = fstatSync(fd).size
if (size === 0) throw new Error(`${path} is empty, or no regular file`)
const memory = new NativeMemory(DEPTH * BLOCK) // a block for each request; outside of the heap, for the kernel wants addresses
let next = 0
let lines = 0

const queue = new IoQueue({
  fd,
  depth: DEPTH,
  onComplete (id, result) {
    if (result < 0) throw new Error(`the read at ${queue.offset[id]} failed with error number ${-result}`)
    const block = memory.u8.subarray(id * BLOCK, id * BLOCK + result)
    for (let at = block.indexOf(10); at >= 0; at = block.indexOf(10, at + 1)) lines++
    readNext(id) // its number is free again, and its memory
  }
})

function readNext (id: number): void {
  const length = Math.min(BLOCK, size - next)
  if (length === 0) return
  queue.readv(id, [{ address: memory.address + id * BLOCK, length }], next)
  next += length
}

for (let id = 0; id < DEPTH; id++) readNext(id)
queue.submit() // one system call for all of them
const watch = watchReadable(queue.completionFd, () => {
  readSync(queue.completionFd, new Uint8Array(8)) // clear the eventfd first, then look
  queue.reap()
  queue.submit()
  if (queue.inFlight > 0) return
  for (const { engine, reason } of queue.rejected) console.log(`not ${engine}: ${reason}`)
  console.log(`${path}: ${size} bytes, ${lines} lines`)
  console.log(`${queue.engine}: ${queue.completions} requests, up to ${DEPTH} in flight, ${queue.systemCalls} system calls`)
  watch.close()
  queue.close()
  memory.close()
  closeSync(fd)
})
