import { nbd, type NbdOptions, parseNbdUri, type ReconnectOptions } from '@node-vmm/nbd'
import type { Disk, OpenDisk } from '@node-vmm/virtio-blk-dataplane'
import { readFileSync } from 'node:fs'
import { NEVER } from './concurrency.ts'
import { encrypted, type EncryptedOptions } from './encrypted.ts'
import { DiskError } from './errors.ts'
import { faulty, type FaultyOptions } from './faulty.ts'
import { fromModule, type ModuleOptions } from './module.ts'
import type { OpenedDisk } from './opened-disk.ts'
import { overlay, type OverlayOptions } from './overlay.ts'
import { raw, type RawOptions } from './raw.ts'
import { ram, type RamOptions } from './ram.ts'
import { throttle, type ThrottleOptions } from './throttle.ts'

/** A disk, and what it stands on, as plain data. */
export type DiskSpec =
  | { readonly type: 'raw' } & RawOptions
  | { readonly type: 'ram' } & RamOptions
  /** An export of an NBD server, by its URI: see `@node-vmm/nbd`. */
  | {
    readonly type: 'nbd'
    readonly uri: string
    /** @default {} */
    readonly reconnect?: ReconnectOptions
  } & Pick<NbdOptions, 'connections' | 'connectTimeout' | 'timeout'>
  | {
    readonly type: 'overlay'
    /** @default the raw image that the file names */
    readonly base?: DiskSpec
  } & Omit<OverlayOptions, 'base'>
  | { readonly type: 'throttle', readonly disk: DiskSpec } & Omit<ThrottleOptions, 'disk' | 'clock'>
  /** `keyFile`: the path of a file whose bytes, all of them, are the key. */
  | { readonly type: 'encrypted', readonly disk: DiskSpec, readonly keyFile: string } & Omit<EncryptedOptions, 'disk' | 'key' | 'signal'>
  | { readonly type: 'faulty', readonly disk: DiskSpec } & Omit<FaultyOptions, 'disk'>
  | {
    readonly type: 'module'
    /** @default none */
    readonly disk?: DiskSpec
  } & Omit<ModuleOptions, 'disk'>

/** What an option may be. A size is a number, or text with one of the units K, M, G, T (powers of 1024). */
export type Kind = 'text' | 'uri' | 'flag' | 'number' | 'size' | 'disk' | 'texts' | { readonly fields: Fields, readonly short?: string } | { readonly list: Kind }

/** The options of something, by name; those that it cannot do without have a `!` behind their name. */
export type Fields = Readonly<Record<string, Kind>>

const BUCKET: Kind = { fields: { 'size!': 'size', refillTime: 'number', oneTimeBurst: 'size' }, short: 'size' }
const FAULT: Kind = { fields: { 'kind!': 'text', code: 'text', milliseconds: 'number' }, short: 'kind' }
const RECONNECT: Kind = { fields: { delay: 'number', maxDelay: 'number', patience: 'number', unflushed: 'text' } }
const RULE: Kind = { fields: { 'fault!': FAULT, operation: 'text', at: 'number', probability: 'number', offset: 'size', length: 'size' } }

interface DiskType {
  readonly fields: Fields
  readonly open: (options: any, lower: Lower, signal: AbortSignal) => OpenedDisk | Promise<OpenedDisk>
}

/** The disks below one, opened. */
interface Lower {
  readonly disk?: Disk
  readonly base?: Disk
}

const types: Readonly<Record<DiskSpec['type'], DiskType>> = {
  raw: {
    fields: { 'path!': 'text', readOnly: 'flag' },
    open: raw
  },
  ram: {
    fields: { 'capacity!': 'size', blockSize: 'size' },
    open: ram
  },
  nbd: {
    fields: { 'uri!': 'uri', connections: 'number', connectTimeout: 'number', timeout: 'number', reconnect: RECONNECT },
    open: (options, _lower, signal) => nbd({ ...options, signal })
  },
  overlay: {
    fields: { base: 'disk', 'file!': 'text', readOnly: 'flag', capacity: 'size', clusterSize: 'size' },
    // A plain image is left to the overlay, so that it knows its path.
    open: ({ base, ...options }, lower) => overlay({ ...options, ...(base !== undefined && { base: lower.base ?? base.path }) })
  },
  throttle: {
    fields: { 'disk!': 'disk', ops: BUCKET, bytes: BUCKET },
    open: (options, { disk }) => throttle({ ...options, disk })
  },
  encrypted: {
    fields: { 'disk!': 'disk', 'keyFile!': 'text', format: 'flag', discards: 'flag' },
    open: async ({ keyFile, ...options }, { disk }, signal) => {
      const key = readFileSync(keyFile)
      try {
        return await encrypted({ ...options, disk, key, signal })
      } finally {
        key.fill(0)
      }
    }
  },
  faulty: {
    fields: { 'disk!': 'disk', 'rules!': { list: RULE }, seed: 'number' },
    open: (options, { disk }) => faulty({ ...options, disk })
  },
  module: {
    fields: { 'path!': 'text', options: 'texts', disk: 'disk' },
    open: (options, { disk }) => fromModule({ ...options, ...(disk !== undefined && { disk }) })
  }
}

/** The types of disks that {@link open} knows. */
export const DISK_TYPES = Object.keys(types) as readonly DiskSpec['type'][]

/** How long opening a disk may take. */
export interface OpenOptions {
  /** Gives the attempt up, with the signal's reason. @default never */
  readonly signal?: AbortSignal
}

/**
 * Opens a disk, and before it what it stands on. The base of an overlay is opened read-only, whatever it says.
 *
 * @throws DiskError ERR_DISK_SPEC; what the disks throw; the signal's reason. Nothing stays open then.
 */
export async function open (spec: DiskSpec, { signal = NEVER }: OpenOptions = {}): Promise<OpenedDisk> {
  return openChecked(checkSpec(spec), signal)
}

/** The same under the name that the data plane looks for: this package is a disk module, and its options are a {@link DiskSpec}. */
export const openDisk: OpenDisk<DiskSpec> = (spec) => open(spec)

async function openChecked (spec: DiskSpec, signal: AbortSignal): Promise<OpenedDisk> {
  signal.throwIfAborted()
  const lower: { disk?: Disk, base?: Disk } = {}
  if ('disk' in spec && spec.disk !== undefined) lower.disk = await openChecked(spec.disk, signal)
  if (spec.type === 'overlay' && spec.base !== undefined && spec.base.type !== 'raw') lower.base = await openChecked(readOnly(spec.base), signal)
  try {
    const { type, ...options } = spec
    return await types[type].open(options, lower, signal)
  } catch (error) {
    await (lower.disk ?? lower.base)?.close?.()
    throw error
  }
}

function readOnly (spec: DiskSpec): DiskSpec {
  if ('disk' in spec && spec.disk !== undefined) return { ...spec, disk: readOnly(spec.disk) }
  return spec.type === 'raw' || spec.type === 'overlay' ? { ...spec, readOnly: true } : spec
}

/**
 * Looks whether plain data describes a disk: types and options known, nothing missing, everything of its kind. What the
 * values mean is looked at when the disk is opened.
 *
 * @returns the same, with numbers in place of sizes as text, and buckets and faults written out
 * @throws DiskError ERR_DISK_SPEC, which says where
 */
export function checkSpec (spec: unknown): DiskSpec {
  return checkDisk(spec, 'disk')
}

function checkDisk (value: unknown, where: string): DiskSpec {
  const type = isObject(value) ? value.type : undefined
  if (typeof type !== 'string') throw wrong(where, `a disk is an object with a type (${DISK_TYPES.join(', ')})`)
  if (!isType(type)) throw wrong(where, `there is no type '${type}': ${DISK_TYPES.join(', ')}`)
  const { type: _, ...options } = value as Record<string, unknown>
  return { type, ...checkFields(options, types[type].fields, where, `disk of type ${type}`) } as DiskSpec
}

function checkFields (values: Readonly<Record<string, unknown>>, fields: Fields, where: string, what: string): Record<string, unknown> {
  const names = namesOf(fields)
  for (const name of Object.keys(values)) {
    if (!names.includes(name)) throw wrong(`${where}.${name}`, `a ${what} has no such option: ${names.join(', ')}`)
  }
  const checked: Record<string, unknown> = {}
  for (const [field, kind] of Object.entries(fields)) {
    const name = field.replace('!', '')
    const value = values[name]
    if (value !== undefined) checked[name] = check(value, kind, `${where}.${name}`)
    else if (field.endsWith('!')) throw wrong(where, `a ${what} needs ${name}`)
  }
  return checked
}

function check (value: unknown, kind: Kind, where: string): unknown {
  if (kind === 'disk') return checkDisk(value, where)
  if (kind === 'texts') return checkTexts(value, where)
  if (kind === 'text') return checkText(value, where)
  if (kind === 'uri') return checkUri(value, where)
  if (kind === 'flag') return checkFlag(value, where)
  if (kind === 'number' || kind === 'size') return checkNumber(value, kind, where)
  if ('list' in kind) return checkList(value, kind.list, where)
  const { fields, short } = kind
  if (isObject(value)) return checkFields(value, fields, where, 'value here')
  if (short === undefined) throw wrong(where, `an object with ${namesOf(fields).join(', ')} is needed`)
  return checkFields({ [short]: value }, fields, where, 'value here')
}

function checkText (value: unknown, where: string): string {
  if (typeof value !== 'string' || value === '') throw wrong(where, `text is needed: not ${show(value)}`)
  return value
}

/** Values by name, both of the user's own. */
function checkTexts (value: unknown, where: string): Record<string, string> {
  if (!isObject(value)) throw wrong(where, `names and values are needed: not ${show(value)}`)
  return Object.fromEntries(Object.entries(value).map(([name, text]) => {
    if (!/^[A-Za-z]\w*$/.test(name)) throw wrong(where, `a name begins with a letter, and has letters, digits and _: not ${show(name)}`)
    if (!['string', 'number', 'boolean'].includes(typeof text)) throw wrong(`${where}.${name}`, `text, a number, true or false is needed: not ${show(text)}`)
    return [name, String(text)]
  }))
}

function checkUri (value: unknown, where: string): string {
  const uri = checkText(value, where)
  try {
    parseNbdUri(uri)
  } catch (error) {
    throw wrong(where, (error as Error).message)
  }
  return uri
}

function checkFlag (value: unknown, where: string): boolean {
  if (value === true || value === 'true') return true
  if (value === false || value === 'false') return false
  throw wrong(where, `true or false is needed: not ${show(value)}`)
}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 }

function checkNumber (value: unknown, kind: 'number' | 'size', where: string): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)([KMGT]?)$/.exec(String(value)) ?? []
  const number = typeof value === 'number' ? value : typeof value === 'string' && (unit === '' || kind === 'size') ? Number(digits) * UNITS[unit]! : NaN
  if (number >= 0 && Number.isFinite(number)) return number
  throw wrong(where, `a number${kind === 'size' ? ', or text such as 64K or 10G,' : ''} is needed: not ${show(value)}`)
}

function checkList (value: unknown, kind: Kind, where: string): unknown[] {
  if (!Array.isArray(value)) throw wrong(where, `a list is needed: not ${show(value)}`)
  return value.map((item, index) => check(item, kind, `${where}[${index}]`))
}

function namesOf (fields: Fields): string[] {
  return Object.keys(fields).map((name) => name.replace('!', ''))
}

function isObject (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** @internal */
export function isType (type: string): type is DiskSpec['type'] {
  return Object.hasOwn(types, type)
}

/** What kind an option is of, by the type of the disk; undefined for none. @internal */
export function kindOf (type: DiskSpec['type'], name: string): Kind | undefined {
  const { fields } = types[type]
  return fieldKind(fields, name)
}

/** @internal */
export function fieldKind (fields: Fields, name: string): Kind | undefined {
  if (Object.hasOwn(fields, name)) return fields[name]
  return Object.hasOwn(fields, `${name}!`) ? fields[`${name}!`] : undefined
}

function show (value: unknown): string {
  return JSON.stringify(value) ?? String(value)
}

function wrong (where: string, what: string): DiskError {
  return new DiskError('ERR_DISK_SPEC', `${where}: ${what}`)
}
