// npm run soak: the server for a long time, under a load that knows what it has to read. It must not grow.
import { parseArgs } from 'node:util'
import { report, soak } from './soak/soak.ts'

const HELP = `Usage: npm run soak -- [options]

Serves two disks, one by the program and one by the library, to one guest after the other: verified reads and writes,
flushes, discards, zeroes, while rings stop and start, disks change their size, migrations are tried, front-ends are
killed, and the library pauses. Tells memory, descriptors, mappings and latencies, and whether they grow.

  --seconds=N  how long (default 1800)
  --seed=N     of all that is random (default a random one)
  --help       print this text

Exit status 1 when something was wrong, or grew.`

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '1800' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 0x100000000)) },
    help: { type: 'boolean', default: false }
  }
})
if (values.help) console.log(HELP)
else process.exitCode = await main(Number(values.seconds), Number(values.seed))

async function main (seconds: number, seed: number): Promise<number> {
  if (!(seconds > 0) || !Number.isInteger(seed)) {
    console.error(HELP)
    return 2
  }
  console.log(`soak: ${seconds} s, seed ${seed}`)
  let problems = 0
  for (const life of await soak(seconds, seed)) {
    const { text, problems: found } = report(life)
    console.log(text)
    problems += found.length
  }
  return problems === 0 ? 0 : 1
}
