import { close, fileStatus, open } from './file.ts'
import { LinuxError } from './errors.ts'
import { check, lastErrno, native } from './library.ts'

// The same numbers on every processor.
const LANDLOCK_CREATE_RULESET = 444
const LANDLOCK_ADD_RULE = 445
const LANDLOCK_RESTRICT_SELF = 446

// linux/landlock.h
const LANDLOCK_CREATE_RULESET_VERSION = 1
const LANDLOCK_RULE_PATH_BENEATH = 1
const LANDLOCK_RESTRICT_SELF_TSYNC = 1 << 3
const READ_FILE = 1 << 2
const READ_DIRECTORY = 1 << 3
/** Rights on files by version: 13 of the first, then REFER, TRUNCATE, nothing, IOCTL_DEV. */
const FILE_RIGHTS_OF_VERSION = [0, 13, 14, 15, 15, 16]
/** The first version whose restrictions reach all threads (Linux 7.0). */
const VERSION_WITH_TSYNC = 8

const O_PATH = 0o10000000

const createRulesetC = native('int syscall(long number, void *attributes, size_t size, unsigned int flags)')
const addRuleC = native('int syscall(long number, int ruleset, int type, void *rule, unsigned int flags)')
const restrictSelfC = native('int syscall(long number, int ruleset, unsigned int flags)')

/** The version of Landlock that this kernel has; 0 where it has none, or was started without. See `landlock(7)`. */
export function landlockVersion (): number {
  return Math.max(0, createRulesetC()(LANDLOCK_CREATE_RULESET, null, 0, LANDLOCK_CREATE_RULESET_VERSION))
}

/**
 * From now on what is not open yet can be opened for reading beneath `paths` only, and nothing can be written, made,
 * removed or run by its path; this cannot be undone. Descriptors that are open are not affected. The calling thread must
 * have `no_new_privs`. See `landlock(7)`.
 *
 * @param paths files and directories; each must exist.
 * @returns which threads are held by it: all of the process since Linux 7.0; before, the calling one and those that it
 * starts from now on.
 * @throws LinuxError such as EOPNOTSUPP or ENOSYS for a kernel without Landlock, ENOENT for a path
 */
export function restrictToReading (paths: readonly string[]): 'all' | 'new' {
  const version = landlockVersion()
  const rights = FILE_RIGHTS_OF_VERSION[version] ?? FILE_RIGHTS_OF_VERSION.at(-1)!
  const handled = BigUint64Array.of((1n << BigInt(rights)) - 1n)
  const ruleset = createRulesetC()(LANDLOCK_CREATE_RULESET, handled, handled.byteLength, 0)
  if (ruleset < 0) throw new LinuxError('landlock_create_ruleset', lastErrno(), { remedy: 'Landlock takes Linux 5.13, and has to be named in the kernel parameter lsm=.' })
  try {
    for (const path of paths) allowReading(ruleset, path)
    const all = version >= VERSION_WITH_TSYNC
    check(restrictSelfC()(LANDLOCK_RESTRICT_SELF, ruleset, all ? LANDLOCK_RESTRICT_SELF_TSYNC : 0), 'landlock_restrict_self')
    return all ? 'all' : 'new'
  } finally {
    close(ruleset)
  }
}

function allowReading (ruleset: number, path: string): void {
  const fd = open(path, O_PATH)
  try {
    // struct landlock_path_beneath_attr, packed: the rights, the descriptor.
    const rule = new DataView(new ArrayBuffer(12))
    rule.setBigUint64(0, BigInt(fileStatus(fd).kind === 'directory' ? READ_FILE | READ_DIRECTORY : READ_FILE), true)
    rule.setInt32(8, fd, true)
    check(addRuleC()(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0), 'landlock_add_rule', () => ({ subject: path }))
  } finally {
    close(fd)
  }
}
