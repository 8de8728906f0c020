import { errno, LinuxError } from './errors.ts'
import { check, koffi, lastErrno, native } from './library.ts'

/** Fails with EAGAIN instead of waiting: `recv(2)`. */
export const MSG_DONTWAIT = 0x40
/** No SIGPIPE where the other end is gone: `send(2)`. */
export const MSG_NOSIGNAL = 0x4000
const MSG_CTRUNC = 0x08
const MSG_CMSG_CLOEXEC = 0x40000000
const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const SOCK_NONBLOCK = 0o4000
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const SO_ACCEPTCONN = 30
const SHUT_RDWR = 2
/** Bytes of a path in `struct sockaddr_un`, its final zero included: see `unix(7)`. */
const SUN_PATH_BYTES = 108
/** The most descriptors that one message carries (SCM_MAX_FD): see `unix(7)`. */
export const SCM_MAX_FD = 253

const socketC = native('int socket(int domain, int type, int protocol)')
const socketpairC = native('int socketpair(int domain, int type, int protocol, void *fds)')
const bindC = native('int bind(int fd, void *address, unsigned int length)')
const connectC = native('int connect(int fd, void *address, unsigned int length)')
const listenC = native('int listen(int fd, int backlog)')
const acceptC = native('int accept4(int fd, uintptr_t address, uintptr_t length, int flags)')
const getsockoptC = native('int getsockopt(int fd, int level, int option, void *value, void *length)')
const shutdownC = native('int shutdown(int fd, int how)')
const sendmsgC = native('intptr_t sendmsg(int fd, void *message, int flags)')
const recvmsgC = native('intptr_t recvmsg(int fd, void *message, int flags)')

/** How a socket is made. */
export interface UnixSocketOptions {
  /** Calls that would wait fail with EAGAIN (SOCK_NONBLOCK). @default false */
  readonly nonBlocking?: boolean
}

/** A new unix stream socket, close-on-exec. See `unix(7)`. @throws LinuxError such as EMFILE */
export function unixSocket (options: UnixSocketOptions = {}): number {
  return check(socketC()(AF_UNIX, streamType(options.nonBlocking), 0), 'socket')
}

/** A new unix datagram socket, close-on-exec and blocking. See `unix(7)`. @throws LinuxError such as EMFILE */
export function unixDatagramSocket (): number {
  return check(socketC()(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket')
}

/** Two unix stream sockets, connected to each other, close-on-exec. See `socketpair(2)`. @throws LinuxError such as EMFILE */
export function unixSocketPair (options: UnixSocketOptions = {}): [number, number] {
  const fds = new Int32Array(2)
  check(socketpairC()(AF_UNIX, streamType(options.nonBlocking), 0, fds), 'socketpair')
  return [fds[0]!, fds[1]!]
}

function streamType (nonBlocking = false): number {
  return SOCK_STREAM | SOCK_CLOEXEC | (nonBlocking ? SOCK_NONBLOCK : 0)
}

// An abstract name begins with a zero and has no end but its length; a path ends with a zero.
function socketAddress (path: string): Buffer {
  const bytes = Buffer.from(path)
  const isAbstract = bytes[0] === 0 && bytes.length <= SUN_PATH_BYTES
  if (!isAbstract && (bytes.length === 0 || bytes.length >= SUN_PATH_BYTES || bytes.includes(0))) {
    throw new RangeError(`a unix socket's path has 1 to ${SUN_PATH_BYTES - 1} bytes: ${JSON.stringify(path)} has ${bytes.length}. ` +
      'Use a shorter path, a relative one for instance.')
  }
  const address = Buffer.alloc(2 + (isAbstract ? bytes.length : SUN_PATH_BYTES))
  address.writeUInt16LE(AF_UNIX, 0)
  bytes.copy(address, 2)
  return address
}

/** Names a socket: in the file system, or in the abstract namespace where the name begins with a zero byte. See `unix(7)`, `bind(2)`. @throws LinuxError such as EADDRINUSE; RangeError for a path too long */
export function bindUnix (fd: number, path: string): void {
  const address = socketAddress(path)
  check(bindC()(fd, address, address.length), 'bind', () => ({ subject: path }))
}

/** Connects to a named socket, blocking; names as for {@link bindUnix}. See `connect(2)`. @throws LinuxError such as ENOENT, ECONNREFUSED; RangeError for a path too long */
export function connectUnix (fd: number, path: string): void {
  const address = socketAddress(path)
  check(connectC()(fd, address, address.length), 'connect', () => ({ subject: path, remedy: 'Is the server running?' }))
}

/**
 * Lets clients connect. See `listen(2)`.
 *
 * @param backlog how many may wait to be accepted. @default 16
 * @throws LinuxError such as EINVAL
 */
export function listen (fd: number, backlog = 16): void {
  check(listenC()(fd, backlog), 'listen', () => ({ subject: `fd ${fd}` }))
}

/** The next client, close-on-exec and non-blocking, or undefined when none waits. See `accept(2)`. @throws LinuxError */
export function accept (fd: number): number | undefined {
  const client = acceptC()(fd, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK)
  if (client >= 0) return client
  const number = lastErrno()
  if (number === errno.EAGAIN || number === errno.ECONNABORTED || number === errno.EINTR) return undefined
  throw new LinuxError('accept4', number, { subject: `fd ${fd}` })
}

/** Whether a socket waits for clients (`listen` was called on it), rather than being connected to one. See `socket(7)`, SO_ACCEPTCONN. @throws LinuxError such as ENOTSOCK */
export function isListening (fd: number): boolean {
  const value = new Int32Array(1)
  check(getsockoptC()(fd, SOL_SOCKET, SO_ACCEPTCONN, value, Uint32Array.of(value.byteLength)), 'getsockopt',
    () => ({ subject: `SO_ACCEPTCONN of fd ${fd}` }))
  return value[0] !== 0
}

/** Ends both directions; the other side reads the end. See `shutdown(2)`. One that is not connected is left as it is. */
export function shutdown (fd: number): void {
  shutdownC()(fd, SHUT_RDWR)
}

const MSGHDR_BYTES = 56
const CMSGHDR_BYTES = 16

// struct msghdr with one iovec behind it, for both directions. The typed arrays that it points to must outlive the call.
function messageHeader (bytes: Uint8Array, control: Uint8Array): DataView {
  const header = new DataView(new ArrayBuffer(MSGHDR_BYTES + 16))
  const at = koffi().address(new Uint8Array(header.buffer))
  header.setBigUint64(16, at + BigInt(MSGHDR_BYTES), true)
  header.setBigUint64(24, 1n, true)
  if (control.length > 0) header.setBigUint64(32, koffi().address(control), true)
  header.setBigUint64(40, BigInt(control.length), true)
  if (bytes.length > 0) header.setBigUint64(MSGHDR_BYTES, koffi().address(bytes), true)
  header.setBigUint64(MSGHDR_BYTES + 8, BigInt(bytes.length), true)
  return header
}

function align8 (bytes: number): number {
  return (bytes + 7) & ~7
}

/**
 * Sends bytes and, with the first of them, file descriptors. See `sendmsg(2)` and `unix(7)`, SCM_RIGHTS.
 *
 * @param fds up to `SCM_MAX_FD`; they stay the caller's. @default none
 * @param flags `MSG_*` bits beside MSG_NOSIGNAL. @default 0
 * @returns how many bytes were taken, which may be fewer than offered (the descriptors went along if it is not 0), or
 * undefined when a non-blocking socket is full.
 * @throws LinuxError such as EPIPE; RangeError for more descriptors than one message carries
 */
export function sendMessage (fd: number, bytes: Uint8Array, fds: readonly number[] = [], flags = 0): number | undefined {
  if (fds.length > SCM_MAX_FD) throw new RangeError(`one message carries up to ${SCM_MAX_FD} descriptors: not ${fds.length}`)
  const control = new Uint8Array(fds.length === 0 ? 0 : align8(CMSGHDR_BYTES + 4 * fds.length))
  if (fds.length > 0) {
    const view = new DataView(control.buffer)
    view.setBigUint64(0, BigInt(CMSGHDR_BYTES + 4 * fds.length), true)
    view.setInt32(8, SOL_SOCKET, true)
    view.setInt32(12, SCM_RIGHTS, true)
    fds.forEach((passed, index) => view.setInt32(CMSGHDR_BYTES + 4 * index, passed, true))
  }
  return transfer('sendmsg', () => sendmsgC()(fd, messageHeader(bytes, control), flags | MSG_NOSIGNAL), fd)
}

/** What one `recvmsg` gave. */
export interface ReceivedMessage {
  /** Bytes written to the buffer; 0 is the end of the stream. */
  readonly length: number
  /** Descriptors that came along, close-on-exec: now the caller's to close. */
  readonly fds: readonly number[]
  /** More descriptors came than there was room for; the kernel closed them. */
  readonly truncated: boolean
}

/**
 * Receives bytes and the file descriptors that came with them. See `recvmsg(2)` and `unix(7)`, SCM_RIGHTS.
 *
 * @param room how many descriptors to take at most. @default SCM_MAX_FD
 * @param flags `MSG_*` bits beside MSG_CMSG_CLOEXEC. @default 0
 * @returns undefined when a non-blocking socket has nothing yet.
 * @throws LinuxError such as ECONNRESET
 */
export function receiveMessage (fd: number, bytes: Uint8Array, room = SCM_MAX_FD, flags = 0): ReceivedMessage | undefined {
  const control = new Uint8Array(align8(CMSGHDR_BYTES + 4 * room))
  const header = messageHeader(bytes, control)
  const length = transfer('recvmsg', () => recvmsgC()(fd, header, flags | MSG_CMSG_CLOEXEC), fd)
  if (length === undefined) return undefined
  const controlLength = Number(header.getBigUint64(40, true))
  return {
    length,
    fds: passedDescriptors(new DataView(control.buffer, 0, controlLength)),
    truncated: (header.getUint32(48, true) & MSG_CTRUNC) !== 0
  }
}

function passedDescriptors (control: DataView): number[] {
  const fds: number[] = []
  for (let at = 0; at + CMSGHDR_BYTES <= control.byteLength;) {
    const length = Number(control.getBigUint64(at, true))
    if (length < CMSGHDR_BYTES) break
    if (control.getInt32(at + 8, true) === SOL_SOCKET && control.getInt32(at + 12, true) === SCM_RIGHTS) {
      for (let entry = at + CMSGHDR_BYTES; entry + 4 <= Math.min(at + length, control.byteLength); entry += 4) {
        fds.push(control.getInt32(entry, true))
      }
    }
    at += align8(length)
  }
  return fds
}

function transfer (syscall: string, call: () => number, fd: number): number | undefined {
  for (;;) {
    const result = call()
    if (result >= 0) return result
    const number = lastErrno()
    if (number === errno.EAGAIN) return undefined
    if (number !== errno.EINTR) throw new LinuxError(syscall, number, { subject: `fd ${fd}` })
  }
}
