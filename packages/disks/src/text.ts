/**
 * A disk in one line, for a command line:
 *
 *     disk    = type ":" [ options ] | text         text alone is the path of a raw image, or the URI of an NBD export
 *     options = name "=" value { "," name "=" value }
 *     value   = text | "[" disk "]" | "[" options "]" | "[" value { "," value } "]"
 *     text    = characters other than , [ ] " | a string as in JSON
 *
 * Which of the three stands in brackets follows from the option. Where an option is a disk, text alone is the same as
 * above. Text that would read as `type:` has to be a string, or `raw:path=…`. A line that is nothing but an NBD export's
 * URI needs no string, whatever characters are in it.
 */
import { DiskError } from './errors.ts'
import { checkSpec, type DiskSpec, fieldKind, type Fields, isType, type Kind, kindOf } from './spec.ts'

const NBD_URI = /^nbds?(\+unix)?:\/\//i

const PLAIN = /[^,[\]"]+/y
const QUOTED = /"(?:[^"\\]|\\.)*"/y
const TYPE = /(?!nbds?:\/\/)([a-z][\w-]*):/iy
const NAME = /([A-Za-z]\w*)=/y

/**
 * Reads the one-line form: `throttle:ops=1000,disk=[overlay:base=base.img,file=vm1.ovl]`, or an NBD export's URI.
 *
 * @throws DiskError ERR_DISK_SPEC, which says where
 */
export function parseDisk (text: string): DiskSpec {
  if (NBD_URI.test(text)) return checkSpec(plainDisk(text))
  const reader = new Reader(text)
  const disk = reader.disk()
  if (!reader.atEnd()) throw reader.wrong('nothing more, or a comma and an option')
  return checkSpec(disk)
}

/** What text alone is. */
function plainDisk (text: string): Record<string, unknown> {
  return NBD_URI.test(text) ? { type: 'nbd', uri: text } : { type: 'raw', path: text }
}

class Reader {
  readonly #text: string
  #at = 0

  constructor (text: string) {
    this.#text = text
  }

  atEnd (): boolean {
    return this.#at === this.#text.length
  }

  disk (): Record<string, unknown> {
    const type = this.#take(TYPE)
    if (type === undefined) return plainDisk(this.#scalar())
    if (!isType(type)) throw this.wrong(`there is no type '${type}' (a path with a colon is written as raw:path=…)`, 'is wrong')
    return { type, ...this.#options((name) => kindOf(type, name)) }
  }

  #options (kindOfOption: (name: string) => Kind | undefined): Record<string, unknown> {
    const options: Record<string, unknown> = {}
    for (let first = true; first || this.#skip(','); first = false) {
      if (first && (this.atEnd() || this.#peek() === ']')) break
      const name = this.#take(NAME)
      if (name === undefined) throw this.wrong('an option, name=value,')
      if (Object.hasOwn(options, name)) throw this.wrong(`'${name}' is there twice`, 'is wrong')
      options[name] = this.#value(kindOfOption(name))
    }
    return options
  }

  #value (kind: Kind | undefined): unknown {
    if (this.#peek() === '[') return this.#inBrackets(kind)
    return kind === 'disk' ? this.#plainDisk() : this.#scalar()
  }

  /** Text where a disk could be: what looks like one is not to be taken for a path. */
  #plainDisk (): unknown {
    const type = this.#peek() === '"' ? undefined : this.#take(TYPE)
    if (type !== undefined) throw this.wrong(`a disk in a disk stands in brackets, [${type}:…]`, 'is wrong')
    return plainDisk(this.#scalar())
  }

  #inBrackets (kind: Kind | undefined): unknown {
    this.#expect('[')
    const value = this.#bracketed(kind)
    this.#expect(']')
    return value
  }

  #bracketed (kind: Kind | undefined): unknown {
    if (kind === 'disk') return this.disk()
    if (typeof kind === 'object' && 'list' in kind) return this.#list(kind.list)
    return this.#options((name) => fieldKind(fieldsOf(kind), name))
  }

  #list (kind: Kind): unknown[] {
    const list: unknown[] = []
    if (this.#peek() === ']') return list
    do list.push(this.#value(kind))
    while (this.#skip(','))
    return list
  }

  #scalar (): string {
    const quoted = this.#match(QUOTED)
    if (quoted !== undefined) return this.#unquote(quoted[0])
    const plain = this.#match(PLAIN)
    if (plain === undefined) throw this.wrong('a value')
    return plain[0]
  }

  #unquote (text: string): string {
    try {
      return JSON.parse(text) as string
    } catch {
      throw this.wrong(`${text} is no string as in JSON`, 'is wrong')
    }
  }

  #match (pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at
    const match = pattern.exec(this.#text) ?? undefined
    if (match !== undefined) this.#at = pattern.lastIndex
    return match
  }

  #take (pattern: RegExp): string | undefined {
    return this.#match(pattern)?.[1]
  }

  #peek (): string | undefined {
    return this.#text[this.#at]
  }

  #skip (character: string): boolean {
    if (this.#peek() !== character) return false
    this.#at++
    return true
  }

  #expect (character: string): void {
    if (!this.#skip(character)) throw this.wrong(`'${character}'`)
  }

  wrong (what: string, how = 'is needed'): DiskError {
    return new DiskError('ERR_DISK_SPEC', `${this.#text.slice(0, this.#at)}⟪here⟫${this.#text.slice(this.#at)}: ${what} ${how}`)
  }
}

/** The one-line form of a disk: what `parseDisk` reads back. @throws DiskError ERR_DISK_SPEC */
export function formatDisk (spec: DiskSpec): string {
  return formatChecked(checkSpec(spec))
}

function formatChecked ({ type, ...options }: DiskSpec): string {
  return `${type}:${formatOptions(options, (name) => kindOf(type, name))}`
}

function formatOptions (options: object, kindOfOption: (name: string) => Kind | undefined): string {
  return Object.entries(options).map(([name, value]) => `${name}=${formatValue(value, kindOfOption(name))}`).join(',')
}

function formatValue (value: unknown, kind: Kind | undefined): string {
  if (kind === 'disk') return `[${formatChecked(value as DiskSpec)}]`
  if (Array.isArray(value)) return `[${value.map((item) => formatValue(item, (kind as { list: Kind }).list)).join(',')}]`
  if (typeof value === 'object') return `[${formatOptions(value as object, (name) => fieldKind(fieldsOf(kind), name))}]`
  const text = String(value)
  return typeof value !== 'string' || /^[^,[\]"]+$/.test(text) ? text : JSON.stringify(text)
}

/** What options there are in brackets; none are known of a kind that has names of the user's own. */
function fieldsOf (kind: Kind | undefined): Fields {
  return typeof kind === 'object' && 'fields' in kind ? kind.fields : {}
}
