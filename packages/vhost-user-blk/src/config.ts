import { readFileSync } from 'node:fs'

/**
 * Reads the disks of a configuration file, each as the arguments that would say the same: `true` is an option without a
 * value, `false` one that is not there, and an object the JSON of a disk.
 *
 * @throws Error for a file that cannot be read, or is none
 */
export function readConfig (file: string): string[][] {
  const wrong = (what: string): Error => new Error(`${file}: ${what}`)
  let config: unknown
  try {
    config = JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    throw wrong((error as Error).message)
  }
  if (!isObject(config)) throw wrong('an object is needed, {"disks":[…]}')
  const { disks, ...others } = config
  const [other] = Object.keys(others)
  if (other !== undefined) throw wrong(`"${other}" is unknown: only "disks" is, other options are for the command line`)
  if (!Array.isArray(disks) || disks.length === 0) throw wrong('"disks" is a list of at least one disk')
  return disks.map((disk, index) => {
    if (!isObject(disk)) throw wrong(`disks[${index}] is no object`)
    return Object.entries(disk).flatMap(([name, value]) => argument(name, value, () => wrong(`disks[${index}].${name} is no text, number or flag`)))
  })
}

function argument (name: string, value: unknown, wrong: () => Error): string[] {
  if (typeof value === 'boolean') return value ? [`--${name}`] : []
  if (typeof value === 'string' || typeof value === 'number') return [`--${name}=${value}`]
  if (name === 'disk' && isObject(value)) return [`--disk=${JSON.stringify(value)}`]
  throw wrong()
}

function isObject (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
