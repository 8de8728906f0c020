import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { errno, NativeMemory, PAGE_SIZE, processVmReadv, processVmWritev } from '@node-vmm/libc'

const loader = fileURLToPath(new URL('../../../tools/ts.mjs', import.meta.url))
const libc = new URL('../src/index.ts', import.meta.url).href

test('exitNow ends the process with its status, no handler runs, and no thread is waited for', () => {
  const script = `
    import { exitNow } from '${libc}'
    import { Worker } from 'node:worker_threads'
    process.on('exit', () => console.log('a handler'))
    const worker = new Worker("require('node:worker_threads').parentPort.postMessage('in'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)", { eval: true, execArgv: [] })
    worker.once('message', () => exitNow(7))`
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', loader, '--input-type=module', '--eval', script], { encoding: 'utf8', timeout: 60_000 })
  assert.deepEqual({ status, stdout, stderr }, { status: 7, stdout: '', stderr: '' })
})

test('copies between two lists of memory, as far as there is any', () => {
  const memory = new NativeMemory(8 * PAGE_SIZE)
  const { address } = memory
  const list = (at: number, ...pieces: readonly [address: number, length: number][]): number => {
    for (const [index, [start, length]] of pieces.entries()) {
      memory.setUint64(at + index * 16, start)
      memory.setUint64(at + index * 16 + 8, length)
    }
    return address + at
  }
  memory.u8.fill(1, PAGE_SIZE, PAGE_SIZE + 100)
  memory.u8.fill(2, 2 * PAGE_SIZE, 2 * PAGE_SIZE + 50)
  const remote = list(0, [address + PAGE_SIZE, 100], [address + 2 * PAGE_SIZE, 50])
  const local = list(64, [address + 3 * PAGE_SIZE, 150])
  assert.equal(processVmReadv(process.pid, local, 1, remote, 2), 150)
  assert.deepEqual([...new Set(memory.u8.subarray(3 * PAGE_SIZE, 3 * PAGE_SIZE + 150))], [1, 2])
  assert.equal(memory.u8[3 * PAGE_SIZE + 99], 1)
  assert.equal(memory.u8[3 * PAGE_SIZE + 100], 2)
  memory.u8.fill(3, 3 * PAGE_SIZE, 3 * PAGE_SIZE + 150)
  assert.equal(processVmWritev(process.pid, local, 1, remote, 2), 150)
  assert.equal(memory.u8[PAGE_SIZE], 3)
  assert.equal(memory.u8[2 * PAGE_SIZE + 49], 3)
  assert.equal(memory.u8[2 * PAGE_SIZE + 50], 0)
  // The second piece is nowhere.
  const broken = list(128, [address + PAGE_SIZE, 100], [PAGE_SIZE, 50])
  assert.equal(processVmReadv(process.pid, local, 1, broken, 2), 100)
  assert.equal(processVmReadv(process.pid, local, 1, broken + 16, 1), -errno.EFAULT)
  assert.equal(processVmWritev(process.pid, broken + 16, 1, local, 1), -errno.EFAULT)
  memory.close()
})

test.run()
