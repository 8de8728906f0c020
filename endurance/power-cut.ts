// npm run power-cut: a server under load whose power goes, again and again. What was acknowledged as stable must be there.
import { parseArgs } from 'node:util'
import { campaign, choices, describe } from './power-cut/campaign.ts'
import { type Lie, LIES } from './power-cut/volatile-engine.ts'

const HELP = `Usage: npm run power-cut -- [options]

Kills a loaded server at a random moment and drops of its unflushed writes what a disk may lose with its power; then
looks whether all that was acknowledged as stable is there, and nothing else than what was written.

  --runs=N     how many times (default 200)
  --seed=N     of the first run; each next one has the next number (default a random one)
  --lie=LIE    a disk that lies, to see that it is found out: ${LIES.map((lie) => `"${lie}"`).join(', ')}
  --verbose    a line for each run
  --help       print this text

Exit status 1 when something was lost.`

const VIOLATIONS_TOLD_MAX = 5

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '200' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 0x100000000)) },
    lie: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})
if (values.help) console.log(HELP)
else process.exitCode = await main(Number(values.runs), Number(values.seed))

async function main (runs: number, seed: number): Promise<number> {
  const lie = LIES.find((each) => each === values.lie) as Lie | undefined
  if (!Number.isInteger(runs) || runs < 1 || !Number.isInteger(seed) || lie !== values.lie) {
    console.error(HELP)
    return 2
  }
  console.log(`power-cut: ${runs} runs from seed ${seed}`)
  const sum = { runs: 0, acknowledged: 0, flushes: 0, kept: 0, dropped: 0, torn: 0, failed: 0 }
  await campaign(seed, runs, choices(lie), ({ plan, acknowledged, flushes, powerCut, violations }) => {
    sum.runs++
    sum.acknowledged += acknowledged
    sum.flushes += flushes
    for (const fate of ['kept', 'dropped', 'torn'] as const) sum[fate] += powerCut?.[fate] ?? 0
    if (values.verbose || violations.length > 0) console.log(describe(plan))
    for (const { sector, text } of violations.slice(0, VIOLATIONS_TOLD_MAX)) console.log(`  sector ${sector} ${text}`)
    if (violations.length > 0) {
      sum.failed++
      console.log(`  ${violations.length} sectors are wrong. Again: npm run power-cut -- --runs=1 --seed=${plan.seed}${lie === undefined ? '' : ` --lie="${lie}"`}`)
    }
    return 'go on'
  })
  console.log(`${sum.runs} runs: ${sum.acknowledged} changes and ${sum.flushes} flushes acknowledged. Of the changes that were not ` +
    `stable, ${sum.kept} were kept, ${sum.dropped} dropped, ${sum.torn} kept in part.`)
  console.log(sum.failed === 0 ? 'Nothing was lost that was acknowledged as stable.' : `${sum.failed} runs lost something.`)
  return sum.failed === 0 ? 0 : 1
}
