import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { PROGRAM } from './build.ts'

export interface Options {
  readonly quick: boolean
  readonly rounds: number
  /** Milliseconds that one load is measured for. */
  readonly milliseconds: number
  readonly warmUpMilliseconds: number
  /** Only cases, and only servers, whose name matches. */
  readonly only: RegExp
  readonly servers: RegExp
  /** Other checkouts, set up, whose server is measured too. */
  readonly builds: readonly string[]
  /** Processors of the server and of the load generator. */
  readonly cpus: readonly [number, number]
  readonly imageBytes: number
  /** A folder on a real disk. @default one in the repository that git ignores */
  readonly folder: string | undefined
  readonly json: string | undefined
  readonly svg: string | undefined
  readonly updateDocs: boolean
  /** Print the names of cases and servers, and end. */
  readonly list: boolean
}

export const HELP = `Usage: npm run bench -- [options]

Measures our server, its peers and the file itself, one after the other, again and again, with the same load generator.

  --quick          one short round of a few cases
  --growth         only how it grows: more memory regions, queues, disks, guest memory
  --only=REGEX     only the cases whose name matches
  --servers=REGEX  only the servers whose name matches
  --build=FOLDER   also our server as it is in another checkout, set up; of this one (.), as a control. May be repeated
  --rounds=N       how often everything is measured (default 5; quick 1)
  --seconds=S      how long each time (default 0.6; quick 0.4)
  --cpus=S,L       processors to pin the server and the load generator to (default the last two)
  --image-mib=N    size of each image, a power of two (default 512; quick 256)
  --folder=PATH    where to put the image on a real disk (default .cache/bench in the repository)
  --json=FILE      write all results
  --svg=FOLDER     write plots
  --update-docs    write tables and plots to docs/performance.md and docs/performance/
  --list           print the names of cases and servers
  --help           print this text`

/** @returns undefined to print the help @throws what says what is wrong */
export function parseOptions (args: string[]): Options | undefined {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      growth: { type: 'boolean', default: false },
      only: { type: 'string' },
      servers: { type: 'string' },
      build: { type: 'string', multiple: true, default: [] },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      cpus: { type: 'string' },
      'image-mib': { type: 'string' },
      folder: { type: 'string' },
      json: { type: 'string' },
      svg: { type: 'string' },
      'update-docs': { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false }
    }
  })
  if (values.help) return undefined
  const { quick, growth, rounds, seconds, cpus, 'image-mib': imageMib } = values
  return {
    quick,
    rounds: number('--rounds', rounds ?? (quick ? '1' : '5'), 1, 100),
    milliseconds: number('--seconds', seconds ?? (quick ? '0.4' : '0.6'), 0.1, 60) * 1000,
    warmUpMilliseconds: quick ? 150 : 250,
    only: new RegExp(values.only ?? (growth ? '^growth' : '')),
    servers: new RegExp(values.servers ?? ''),
    builds: [...new Set(values.build.map(checkout))],
    cpus: cpus === undefined ? lastTwo() : pair(cpus),
    imageBytes: number('--image-mib', imageMib ?? (quick ? '256' : '512'), 16, 1 << 20) * 2 ** 20,
    folder: values.folder,
    json: values.json,
    svg: values.svg,
    updateDocs: values['update-docs'],
    list: values.list
  }
}

function checkout (folder: string): string {
  if (!existsSync(join(folder, PROGRAM))) throw new Error(`--build takes a checkout that is set up: ${folder} has no ${PROGRAM}`)
  return folder
}

function number (flag: string, text: string, lowest: number, highest: number): number {
  const value = Number(text)
  if (!(value >= lowest && value <= highest)) throw new Error(`${flag} takes a number from ${lowest} to ${highest}: not ${text}`)
  return value
}

function pair (text: string): [number, number] {
  const match = /^(\d+),(\d+)$/.exec(text)
  if (match === null) throw new Error(`--cpus takes two numbers, as 2,3: not ${text}`)
  return [Number(match[1]), Number(match[2])]
}

function lastTwo (): [number, number] {
  const count = availableParallelism()
  if (count < 2) throw new Error('two processors are needed: one for the server, one for the load generator')
  return [count - 2, count - 1]
}
