import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { suite } from 'uvu'
import { MAP_ANONYMOUS, MAP_PRIVATE, mmap, munmap, NativeMemory, PAGE_SIZE, prefetch, PROT_NONE } from '@node-vmm/libc'
import { runScript } from './support/run-script.ts'

const test = suite('prefetch')

const IOVEC_BYTES = 16

test('nothing of what is listed changes, and what cannot be read is no fault', () => {
  const list = new NativeMemory(PAGE_SIZE)
  const memory = new NativeMemory(PAGE_SIZE)
  memory.u8.fill(7)
  const forbidden = mmap({ length: PAGE_SIZE, protection: PROT_NONE, flags: MAP_PRIVATE | MAP_ANONYMOUS })
  const gone = mmap({ length: PAGE_SIZE, flags: MAP_PRIVATE | MAP_ANONYMOUS })
  munmap(gone, PAGE_SIZE)
  const addresses = [memory.address, 0, 1, forbidden, gone, memory.address + PAGE_SIZE - 1, 2 ** 47, Number.MAX_SAFE_INTEGER]
  for (const [index, address] of addresses.entries()) {
    list.setUint64(index * IOVEC_BYTES, address)
    list.setUint64(index * IOVEC_BYTES + 8, PAGE_SIZE)
  }
  const before = list.u8.slice()
  for (let count = 0; count <= addresses.length; count++) prefetch(list.address, count)
  assert.deepEqual(list.u8, before)
  assert.ok(memory.u8.every((byte) => byte === 7))
  munmap(forbidden, PAGE_SIZE)
  memory.close()
  list.close()
})

test('the list is read up to its last element, and no further', () => {
  // Reading further would end the process.
  const ended = runScript(`
    import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, mmap, PAGE_SIZE, prefetch, PROT_NONE } from '@node-vmm/libc'
    const address = mmap({ length: 2 * PAGE_SIZE, flags: MAP_PRIVATE | MAP_ANONYMOUS })
    mmap({ address: address + PAGE_SIZE, length: PAGE_SIZE, protection: PROT_NONE, flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED })
    for (const count of [0, 1, 2, 255, 256]) prefetch(address + PAGE_SIZE - count * ${IOVEC_BYTES}, count)
    prefetch(address + PAGE_SIZE, 0)
    prefetch(0, 0)
    console.log('true')
  `)
  assert.equal(ended, true)
})

/** Single pages without a file that are executable, as the kernel lists them. */
function executablePages (): string[] {
  return readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => / r.xp 00000000 00:00 0 *$/.test(line)).filter((line) => {
    const [from, to] = line.split(' ')[0]!.split('-').map((text) => parseInt(text, 16))
    return to! - from! === PAGE_SIZE
  })
}

/** How many more they are after a call than before, in a process of its own, and whether any of them may be written. */
function pagesMade (arch: string): { made: number, writable: boolean } {
  return runScript(`
    import { readFileSync } from 'node:fs'
    import { NativeMemory, prefetch } from '@node-vmm/libc'
    const PAGE_SIZE = ${PAGE_SIZE}
    ${executablePages}
    const list = new NativeMemory(PAGE_SIZE)
    // Once the native library is loaded, which is this processor's.
    Object.defineProperty(process, 'arch', { value: '${arch}' })
    const before = executablePages().length
    prefetch(list.address, 1)
    prefetch(list.address, 1)
    const pages = executablePages()
    console.log(JSON.stringify({ made: pages.length - before, writable: pages.some((line) => line.includes(' rwxp ')) }))
  `)
}

test('its instructions are in one page, which is executable and not writable', () => {
  if (process.arch === 'x64') assert.deepEqual(pagesMade('x64'), { made: 1, writable: false })
})

test('bug: each thread left a page behind that had ended', async () => {
  const list = new NativeMemory(PAGE_SIZE)
  const thread = (): Promise<void> => new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./support/prefetch-worker.ts', import.meta.url), { workerData: list.address })
    worker.once('error', reject)
    worker.once('exit', () => resolve())
  })
  prefetch(list.address, 1)
  const before = executablePages().length
  for (let round = 0; round < 3; round++) await Promise.all([thread(), thread(), thread()])
  assert.equal(executablePages().length, before)
  list.close()
})

test('it does nothing on a processor whose instructions it does not know', () => {
  assert.deepEqual(pagesMade('arm64'), { made: 0, writable: false })
})

test.run()
