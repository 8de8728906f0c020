import { readdirSync } from 'node:fs'
import assert from 'node:assert/strict'
import { GuardedMemory } from '../guarded-memory.ts'
import { Random } from '../random.ts'
import type { Case, Player, Surface, Tell } from '../surface.ts'
import { GeometryGame } from './geometry-game.ts'
import { RecordGame, REGIONS } from './record-game.ts'

class InflightPlayer implements Player {
  readonly #memory = new GuardedMemory(REGIONS)

  async play ({ setup, steps }: Case, tell: Tell): Promise<void> {
    const random = new Random(setup)
    if (!random.oneIn(8)) return new RecordGame(this.#memory, random, tell).play(steps, (step) => new Random(step))
    const before = readdirSync('/proc/self/fd').length
    await new GeometryGame(random, tell).play(steps.slice(0, 20))
    assert.equal(readdirSync('/proc/self/fd').length, before, 'open descriptors')
  }

  close (): void {
    this.#memory.close()
  }
}

/** The record of what is in flight: its content, and the geometry of the regions that hold it. */
export const inflight: Surface = { name: 'inflight', stepsMax: 100, open: () => new InflightPlayer() }
