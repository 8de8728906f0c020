import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { NbdError } from './errors.ts'
import { NBD_DEFAULT_PORT, STRING_BYTES_MAX } from './protocol.ts'

/** Certificates for an encrypted connection, as `node:tls` takes them: PEM. */
export interface NbdTlsOptions {
  /** Whom to trust. @default the authorities that Node knows */
  readonly ca?: string | Buffer
  /** The client's certificate, where the server wants one. @default none */
  readonly cert?: string | Buffer
  /** Its private key. @default none */
  readonly key?: string | Buffer
  /** The name that the server's certificate must have. @default the host; `localhost` on a unix socket */
  readonly hostname?: string
  /** Refuse a server whose certificate cannot be verified. @default true */
  readonly verifyPeer?: boolean
}

/** Where an export is. */
export interface NbdAddress {
  /** `nbd://host:port/export`, `nbd+unix:///export?socket=path`, `nbds://…`, `nbds+unix://…` (the NBD URI specification); the other fields override its parts. @default none: the other fields say all */
  readonly uri?: string
  /** A unix socket; one that begins with NUL is in the abstract namespace. @default none: TCP */
  readonly socketPath?: string
  /** A name or an address. @default 'localhost' */
  readonly host?: string
  /** TCP port. @default 10809 */
  readonly port?: number
  /** Which of the server's disks: up to 4096 bytes of UTF-8. @default '': the server's default */
  readonly exportName?: string
  /** Encrypt; without it the server is used in the clear, or not at all where it insists. @default false; true for nbds */
  readonly tls?: boolean | NbdTlsOptions
}

/** An address with nothing left out. */
export interface ResolvedAddress {
  readonly connect: { readonly path: string } | { readonly host: string, readonly port: number }
  readonly exportName: string
  readonly tls: NbdTlsOptions | undefined
  /** For messages. */
  readonly text: string
}

/**
 * Completes an address.
 *
 * @throws NbdError ERR_NBD_OPTIONS
 */
export function resolveAddress (address: NbdAddress): ResolvedAddress {
  const parsed: NbdAddress = address.uri === undefined ? {} : parseNbdUri(address.uri)
  const { socketPath, host = 'localhost', port = NBD_DEFAULT_PORT, exportName = '' } = { ...parsed, ...defined(address) }
  const tls = resolveTls(parsed.tls, address.tls)
  if (Buffer.byteLength(exportName) > STRING_BYTES_MAX) throw options(`an export name has up to ${STRING_BYTES_MAX} bytes`)
  if (exportName.includes('\0')) throw options('an export name has no NUL characters')
  if (!Number.isInteger(port) || port < 1 || port > 65535) throw options(`${port} is no port`)
  return {
    connect: socketPath === undefined ? { host, port } : { path: socketPath },
    exportName,
    tls: tls && { hostname: socketPath === undefined ? host : 'localhost', ...tls },
    text: socketPath === undefined ? `${host}:${port}` : socketPath.replace('\0', '@')
  }
}

function resolveTls (ofUri: NbdAddress['tls'], given: NbdAddress['tls']): NbdTlsOptions | undefined {
  if (ofUri !== undefined && given === false) throw options('nbds means encrypted: tls: false contradicts it')
  if (ofUri === undefined && !given) return undefined
  return { ...(ofUri as NbdTlsOptions | undefined), ...(typeof given === 'object' ? given : {}) }
}

/**
 * Takes an NBD URI apart, as https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md defines it. Not with
 * `URL`, which resolves `..` in a path: an export name is no path.
 *
 * @throws NbdError ERR_NBD_OPTIONS
 */
export function parseNbdUri (uri: string): NbdAddress {
  const parts = /^(nbds?)(\+unix)?:\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i.exec(uri)
  if (parts === null) throw options(`${JSON.stringify(uri)} is no NBD URI: nbd://host:port/export or nbd+unix:///export?socket=path`)
  const [, scheme, unix, authority, path = '', query = ''] = parts
  const { socket, ...tls } = parseQuery(query, uri)
  const encrypted = scheme.toLowerCase() === 'nbds'
  if (!encrypted && Object.keys(tls).length > 0) throw options(`${uri}: tls parameters need the scheme nbds`)
  return {
    exportName: decode(path),
    ...(unix === undefined ? parseAuthority(authority, uri) : { socketPath: socket ?? missingSocket(uri) }),
    ...(encrypted ? { tls } : {})
  }
}

function parseAuthority (authority: string, uri: string): NbdAddress {
  // A user name would be for kinds of authentication that this client does not have.
  const parts = /^(?:\[([0-9a-f:.]+)\]|([^:@[\]]*))(?::(\d*))?$/i.exec(authority)
  if (parts === null) throw options(`${uri}: ${JSON.stringify(authority)} is no host and port`)
  const [, ipv6, name, port] = parts
  const host = ipv6 ?? decode(name)
  return { ...(host === '' ? {} : { host }), ...(port === undefined || port === '' ? {} : { port: Number(port) }) }
}

function parseQuery (query: string, uri: string): NbdTlsOptions & { socket?: string } {
  const found: { -readonly [Key in keyof NbdTlsOptions]: NbdTlsOptions[Key] } & { socket?: string } = {}
  for (const parameter of query === '' ? [] : query.split(/[&;]/)) {
    const [name, value] = parameter.split(/=(.*)/s).map(decode)
    if (name === 'socket' && value) found.socket = value
    else if (name === 'tls-hostname' && value) found.hostname = value
    else if (name === 'tls-verify-peer' && /^[01]$/.test(value)) found.verifyPeer = value === '1'
    else if (name === 'tls-certificates' && value) Object.assign(found, readCertificates(value))
    else if (name !== 'tls-type' || value !== 'x509') throw options(`${uri}: ${parameter} is not understood`)
  }
  return found
}

/** The files of a folder, named as GnuTLS, QEMU and nbdkit name them. */
function readCertificates (folder: string): NbdTlsOptions {
  const ca = read('ca-cert.pem')
  const cert = read('client-cert.pem')
  const key = read('client-key.pem')
  if (ca === undefined && cert === undefined) throw options(`${folder} has neither ca-cert.pem nor client-cert.pem`)
  return { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) }

  function read (name: string): Buffer | undefined {
    try {
      return readFileSync(join(folder, name))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw new NbdError('ERR_NBD_OPTIONS', `${join(folder, name)} cannot be read`, { cause: error })
    }
  }
}

function decode (text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw options(`${JSON.stringify(text)} is not percent-encoded UTF-8`)
  }
}

function missingSocket (uri: string): never {
  throw options(`${uri}: a unix socket is named by the parameter socket`)
}

function defined (address: NbdAddress): NbdAddress {
  return Object.fromEntries(Object.entries(address).filter(([, value]) => value !== undefined))
}

function options (text: string): NbdError {
  return new NbdError('ERR_NBD_OPTIONS', text)
}
