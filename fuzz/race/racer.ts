// The racing thread of race/surface.ts: changes words of guest memory under the device's hands, and mostly changes them
// back, so that the device comes across both within one request.
import { viewMemory } from '@node-vmm/libc'
import { workerData } from 'node:worker_threads'
import { Random } from '../random.ts'
import {
  RACE_ADDRESS, RACE_ANSWER, RACE_CHANGES, RACE_COMMAND, RACE_END, RACE_IDLE, RACE_LENGTH, RACE_PACE, RACE_PARTS, RACE_RESTORES, RACE_SEED, type RacerInit
} from './control.ts'

const CHANGES_AT_ONCE = 16
const LOOK_MILLISECONDS = 100
/** How often a word goes to and fro. */
const TIMES = [1, 8, 64, 512, 4096]

function race (control: Int32Array): void {
  const words = new Uint32Array(control.buffer)
  const address = words[RACE_ADDRESS + 1]! * 0x100000000 + words[RACE_ADDRESS]!
  const memory = new Int32Array(viewMemory(address, words[RACE_LENGTH]!))
  const random = new Random(words[RACE_SEED]!)
  while (Atomics.load(control, RACE_COMMAND) > 0) {
    for (let count = 0; count < CHANGES_AT_ONCE; count++) {
      change(memory, place(words, memory, random), random, words[RACE_RESTORES]!)
      rest(memory, random.below(words[RACE_PACE]! + 1))
    }
    Atomics.add(control, RACE_CHANGES, CHANGES_AT_ONCE)
  }
}

/** A word that is in use, mostly: what is zero is not. */
function place (words: Uint32Array, memory: Int32Array, random: Random): number {
  const part = RACE_PARTS + 1 + 2 * random.below(words[RACE_PARTS]!)
  const pick = (): number => random.between(words[part]!, words[part + 1]!)
  let at = pick()
  for (let tries = 0; tries < 8 && Atomics.load(memory, at) === 0; tries++) at = pick()
  return at
}

/** To and fro: the longer it goes on, the more often somebody who looks twice sees two things. */
function change (memory: Int32Array, at: number, random: Random, restores: number): void {
  const old = Atomics.load(memory, at)
  const changed = other(old, random)
  for (let times = random.pick(TIMES); times > 0; times--) {
    Atomics.store(memory, at, old)
    rest(memory, random.below(32))
    Atomics.store(memory, at, changed)
    rest(memory, random.below(32))
  }
  if (random.below(256) < restores) Atomics.store(memory, at, old)
}

function rest (memory: Int32Array, loads: number): void {
  for (; loads > 0; loads--) Atomics.load(memory, 0)
}

function other (old: number, random: Random): number {
  switch (random.below(8)) {
    case 0: return old ^ 1 << random.below(32)
    case 1: return old + random.between(-2, 2)
    case 2: return random.below(0x10000) | random.below(0x10000) << 16
    case 3: return [0, -1, 0x7fffffff, -0x80000000, 512, 4096, 0x10000][random.below(7)]!
    case 4: return old ^ (7 << 16 * random.below(2))
    case 5: return random.word() | 0
    default: return old ^ 1 << random.below(16)
  }
}

const control = new Int32Array((workerData as RacerInit).control)
for (;;) {
  const command = Atomics.load(control, RACE_COMMAND)
  if (command === RACE_END) break
  if (command > 0) race(control)
  Atomics.store(control, RACE_ANSWER, Atomics.load(control, RACE_COMMAND))
  // A race that began and ended between these two lines is still to be answered.
  Atomics.wait(control, RACE_COMMAND, RACE_IDLE, LOOK_MILLISECONDS)
}
