import { parseArgs } from 'node:util'

/** The surfaces, in the order in which `all` takes them. */
export const SURFACES = ['ring', 'request', 'message', 'inflight', 'race'] as const

export type SurfaceName = typeof SURFACES[number]

export interface Options {
  readonly surfaces: readonly SurfaceName[]
  readonly seconds: number
  readonly seed: number
  /** Number of the first case. */
  readonly first: number
  /** Cases at most. */
  readonly cases: number
}

export const HELP = `Usage: npm run fuzz -- --surface=NAME [options]

Plays hostile guests and front-ends against the device, and checks each answer against a model, and the memory around it.

  --surface=NAME  ring      descriptors and rings, split and packed, against a plain reading of the specification
                  request   block requests on a real file, against a model of the disk
                  message   vhost-user messages over a socket: their bytes, descriptors and order
                  inflight  the record of what is in flight, its content and its geometry
                  race      a thread that rewrites rings and requests while the device reads them
                  all       each of them in turn
  --seconds=N     how long each surface is played (default 10)
  --seed=N        0 to 4294967295 (default: another one each time)
  --cases=N       play so many cases, however long they take
  --case=N        play only this one: what a failure prints, with its seed

A failure is made small, printed with the command line that repeats it, and ends the program with status 1.`

/** @returns undefined to print the help @throws what says what is wrong */
export function parseOptions (args: string[]): Options | undefined {
  const { values } = parseArgs({
    args,
    options: {
      surface: { type: 'string' },
      seconds: { type: 'string' },
      seed: { type: 'string' },
      cases: { type: 'string' },
      case: { type: 'string' },
      help: { type: 'boolean', default: false }
    }
  })
  if (values.help) return undefined
  const { surface, seconds, seed, cases, case: only } = values
  if (only !== undefined && seed === undefined) throw new Error('--case is one of a seed: give --seed too')
  const count = only !== undefined ? 1 : cases === undefined ? undefined : integer('--cases', cases, 1, Number.MAX_SAFE_INTEGER)
  return {
    surfaces: surfacesOf(surface),
    // A number of cases is played however long it takes.
    seconds: seconds === undefined && count !== undefined ? Infinity : integer('--seconds', seconds ?? '10', 1, 1e6),
    seed: seed === undefined ? Math.floor(Math.random() * 2 ** 32) : integer('--seed', seed, 0, 2 ** 32 - 1),
    first: only === undefined ? 0 : integer('--case', only, 0, Number.MAX_SAFE_INTEGER),
    cases: count ?? Infinity
  }
}

function surfacesOf (name: string | undefined): readonly SurfaceName[] {
  if (name === 'all') return SURFACES
  const found = SURFACES.find((each) => each === name)
  if (found === undefined) throw new Error(`--surface is one of ${SURFACES.join(', ')} or all: not ${name}`)
  return [found]
}

function integer (name: string, text: string, lowest: number, highest: number): number {
  const value = Number(text)
  if (text === '' || !Number.isInteger(value) || value < lowest || value > highest) {
    throw new Error(`${name} is an integer from ${lowest} to ${highest}: not ${text}`)
  }
  return value
}
