import assert from 'node:assert/strict'
import { DirtyLog } from '@node-vmm/hostmem'
import { test } from 'uvu'
import type { Cpu } from '../emulator.ts'
import { Ram } from '../ram.ts'

const BYTES = 0x200000
/** Where in the emulator's own memory the guest's begins. */
const OFFSET = 0x3000

interface FakeCpu extends Cpu {
  readonly forgotten: number[]
  wasm_memory: { buffer: ArrayBuffer }
}

function fakeCpu (): FakeCpu {
  const buffer = new ArrayBuffer(OFFSET + BYTES)
  const forgotten: number[] = []
  return {
    forgotten,
    wasm_memory: { buffer },
    mem8: new Uint8Array(buffer, OFFSET, BYTES),
    jit_dirty_cache: (start: number, end: number) => forgotten.push(start, end)
  } as unknown as FakeCpu
}

test("the guest's memory is the emulator's, but for the screen's window", () => {
  const cpu = fakeCpu()
  const ram = new Ram(cpu)
  ram.memory.write(0x100000, Buffer.from('high'))
  ram.memory.write(0x9fffd, Buffer.from('low'))
  assert.equal(Buffer.from(cpu.mem8.subarray(0x100000, 0x100004)).toString(), 'high')
  assert.equal(Buffer.from(cpu.mem8.subarray(0x9fffd, 0xa0000)).toString(), 'low')
  assert.equal(ram.memory.translate(0x9ffff, 2, true), 0)
  assert.equal(ram.memory.translate(0xbffff, 1, true), 0)
  assert.notEqual(ram.memory.translate(0xc0000, BYTES - 0xc0000, true), 0)
  assert.equal(ram.memory.translate(BYTES - 1, 2, true), 0)
  ram.close()
})

test('code is forgotten once for each page that was written', () => {
  const cpu = fakeCpu()
  const ram = new Ram(cpu)
  const log = new DirtyLog(ram.writtenPages.address, ram.writtenPages.length)
  log.mark(0x5fff, 2)
  log.mark(0x100000, 1)
  log.mark(BYTES - 1, 1)
  ram.forgetStaleCode()
  assert.deepEqual(cpu.forgotten, [0x5000, 0x6000, 0x6000, 0x7000, 0x100000, 0x101000, BYTES - 0x1000, BYTES])
  ram.forgetStaleCode()
  assert.equal(cpu.forgotten.length, 8)
  ram.close()
})

test('memory that has moved is told', () => {
  const cpu = fakeCpu()
  const ram = new Ram(cpu)
  ram.checkPlace()
  cpu.wasm_memory = { buffer: ram.memory.view(0xc0000, 4096) }
  assert.throws(() => ram.checkPlace(), /moved/)
  ram.close()
})

test('a WebAssembly memory that grows stays where it is', () => {
  const { Memory } = (globalThis as unknown as { WebAssembly: { Memory: new (init: object) => { buffer: ArrayBuffer, grow (pages: number): void } } }).WebAssembly
  const memory = new Memory({ initial: 64 })
  const cpu = { wasm_memory: memory, mem8: new Uint8Array(memory.buffer, OFFSET, BYTES) } as unknown as Cpu
  const ram = new Ram(cpu)
  const before = memory.buffer
  for (let times = 0; times < 20; times++) {
    memory.grow(512)
    ram.memory.setUint8(0x1234, times)
    assert.equal(new Uint8Array(memory.buffer)[OFFSET + 0x1234], times)
    ram.checkPlace()
  }
  assert.notEqual(memory.buffer, before)
  ram.close()
})

test.run()
