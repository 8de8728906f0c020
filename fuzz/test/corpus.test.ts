import assert from 'node:assert/strict'
import { test } from 'uvu'
import { playOnce } from '../campaign.ts'
import { readCorpus } from '../corpus.ts'
import { SURFACES } from '../options.ts'
import { replayLine } from '../report.ts'
import { makeCase } from '../surface.ts'
import { openSurface } from '../surfaces.ts'

for (const name of SURFACES) {
  test(`${name}: the cases that are kept find nothing`, async () => {
    const surface = await openSurface(name)
    for (const { seed, case: number, why } of readCorpus(name)) {
      const error = await playOnce(surface, makeCase(seed, number, surface.stepsMax))
      assert.equal(error, undefined, `${why}\n${replayLine(name, seed, number)}\n${error?.stack}`)
    }
  })
}

test.run()
