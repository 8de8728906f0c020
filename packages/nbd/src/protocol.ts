// Numbers of the NBD protocol, named as https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md names them.
// All integers on the wire are big-endian.

/** ASCII "NBDMAGIC": the first word of every server, as two halves. */
export const NBDMAGIC = [0x4e42444d, 0x41474943] as const
/** ASCII "IHAVEOPT": newstyle negotiation; also in front of each option. */
export const IHAVEOPT = [0x49484156, 0x454f5054] as const
/** In front of each reply to an option. */
export const NBD_REP_MAGIC = [0x0003e889, 0x045565a9] as const
export const NBD_REQUEST_MAGIC = 0x25609513
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef

/** TCP port that IANA reserves for NBD. */
export const NBD_DEFAULT_PORT = 10809

// Handshake flags, and the client's answers, which have the same bits.
export const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0
export const NBD_FLAG_NO_ZEROES = 1 << 1

export const NBD_OPT_EXPORT_NAME = 1
export const NBD_OPT_ABORT = 2
export const NBD_OPT_LIST = 3
export const NBD_OPT_STARTTLS = 5
export const NBD_OPT_GO = 7
export const NBD_OPT_STRUCTURED_REPLY = 8

export const NBD_REP_ACK = 1
export const NBD_REP_SERVER = 2
export const NBD_REP_INFO = 3
/** Set in the type of every reply that is an error. */
export const NBD_REP_FLAG_ERROR = 0x80000000
export const NBD_REP_ERR_UNSUP = 0x80000001
export const NBD_REP_ERR_POLICY = 0x80000002
export const NBD_REP_ERR_INVALID = 0x80000003
export const NBD_REP_ERR_PLATFORM = 0x80000004
export const NBD_REP_ERR_TLS_REQD = 0x80000005
export const NBD_REP_ERR_UNKNOWN = 0x80000006
export const NBD_REP_ERR_SHUTDOWN = 0x80000007
export const NBD_REP_ERR_BLOCK_SIZE_REQD = 0x80000008
export const NBD_REP_ERR_TOO_BIG = 0x80000009

export const NBD_INFO_EXPORT = 0
export const NBD_INFO_NAME = 1
export const NBD_INFO_DESCRIPTION = 2
export const NBD_INFO_BLOCK_SIZE = 3

/** The other transmission flags mean something. */
export const NBD_FLAG_HAS_FLAGS = 1 << 0
/** Writes fail. */
export const NBD_FLAG_READ_ONLY = 1 << 1
/** The server knows FLUSH: it has a volatile cache, perhaps. */
export const NBD_FLAG_SEND_FLUSH = 1 << 2
/** The server knows FUA: single writes that are durable when they are answered. */
export const NBD_FLAG_SEND_FUA = 1 << 3
/** The disk rotates: sequential access is faster. */
export const NBD_FLAG_ROTATIONAL = 1 << 4
/** The server knows TRIM. */
export const NBD_FLAG_SEND_TRIM = 1 << 5
/** The server knows WRITE_ZEROES. */
export const NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6
/** The server can answer a read in one piece. */
export const NBD_FLAG_SEND_DF = 1 << 7
/** A flush on one connection covers the writes that were answered on all. */
export const NBD_FLAG_CAN_MULTI_CONN = 1 << 8
/** The server can say whether zeroing is faster than writing: FAST_ZERO. */
export const NBD_FLAG_SEND_FAST_ZERO = 1 << 11

export const NBD_CMD_READ = 0
export const NBD_CMD_WRITE = 1
export const NBD_CMD_DISC = 2
export const NBD_CMD_FLUSH = 3
export const NBD_CMD_TRIM = 4
export const NBD_CMD_WRITE_ZEROES = 6

export const NBD_CMD_FLAG_FUA = 1 << 0
export const NBD_CMD_FLAG_NO_HOLE = 1 << 1
export const NBD_CMD_FLAG_FAST_ZERO = 1 << 4

export const NBD_REPLY_FLAG_DONE = 1 << 0
export const NBD_REPLY_TYPE_NONE = 0
export const NBD_REPLY_TYPE_OFFSET_DATA = 1
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2
/** Set in the type of every chunk that is an error. */
export const NBD_REPLY_FLAG_ERROR = 0x8000
export const NBD_REPLY_TYPE_ERROR = 0x8001
export const NBD_REPLY_TYPE_ERROR_OFFSET = 0x8002

export const REQUEST_BYTES = 28
export const SIMPLE_REPLY_BYTES = 16
export const STRUCTURED_REPLY_BYTES = 20

/** The longest string that the protocol allows, in bytes. */
export const STRING_BYTES_MAX = 4096
/** The most data of one request to a server that does not state its own limit. */
export const DEFAULT_MAXIMUM = 32 << 20
