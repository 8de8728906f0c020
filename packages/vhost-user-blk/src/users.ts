import { readFileSync } from 'node:fs'

/** A user of this machine, and a group. */
export interface Account {
  /** The user's number, 0 to 2^32 - 2. */
  readonly uid: number
  /** The number of the group that was named. @default none was: see `primaryGid` */
  readonly gid?: number
  /** The number of the user's own group (`passwd(5)`). @default `/etc/passwd` does not know the user */
  readonly primaryGid?: number
}

/** The highest number of a user or a group; the one above means "unchanged" to `chown(2)`. */
const ID_MAX = 0xfffffffe

/**
 * Understands `USER` and `USER:GROUP`, each a name or a number. Names are looked up in `/etc/passwd` and `/etc/group`.
 *
 * @param passwd another file in its place. @default '/etc/passwd'
 * @param group another file in its place. @default '/etc/group'
 * @throws Error for what is neither, with what would do
 */
export function parseAccount (text: string, passwd = '/etc/passwd', group = '/etc/group'): Account {
  const [userText = '', groupText, ...rest] = text.split(':')
  if (userText === '' || groupText === '' || rest.length > 0) throw new Error(`USER or USER:GROUP, names or numbers: not ${JSON.stringify(text)}`)
  const user = lookUp(passwd, 'user', userText)
  return {
    uid: user.id,
    ...(groupText !== undefined && { gid: lookUp(group, 'group', groupText).id }),
    ...(user.next !== undefined && { primaryGid: user.next })
  }
}

// Both files have lines of name:password:id:…, and a user's group stands behind its id.
function lookUp (file: string, kind: string, text: string): { id: number, next: number | undefined } {
  const isNumber = /^\d+$/.test(text)
  const entry = readFileSync(file, 'utf8').split('\n').map((line) => line.split(':')).find(([name, , id]) => isNumber ? Number(id) === Number(text) : name === text)
  if (!isNumber && entry === undefined) throw new Error(`no ${kind} ${JSON.stringify(text)} in ${file}: give its number if another directory has it`)
  const id = Number(isNumber ? text : entry![2])
  if (id > ID_MAX) throw new Error(`a ${kind} has a number up to ${ID_MAX}: not ${text}`)
  return { id, next: kind === 'user' && entry !== undefined ? Number(entry[3]) : undefined }
}
