import { accessSync, constants } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'

/** The Debian package of each program that the tests use. */
const packages = {
  'apt-get': 'apt',
  blkdiscard: 'util-linux',
  busybox: 'busybox-static',
  'chromium-headless-shell': 'chromium-headless-shell',
  cpio: 'cpio',
  debugfs: 'e2fsprogs',
  dmsetup: 'dmsetup',
  dpkg: 'dpkg',
  e2fsck: 'e2fsprogs',
  fio: 'fio',
  fsfreeze: 'util-linux',
  losetup: 'mount',
  'linux.uml': 'user-mode-linux',
  'mkfs.ext4': 'e2fsprogs',
  nbdkit: 'nbdkit',
  openssl: 'openssl',
  perl: 'perl-base',
  'qemu-img': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  'qemu-storage-daemon': 'qemu-system-common',
  'qemu-system-x86_64': 'qemu-system-x86'
}
export type Program = keyof typeof packages

/** Something that a test needs of the host: what is missing and how to get it, or undefined where nothing is. */
export type Need = () => string | undefined

/** The program's path; undefined where it is not installed. Looks where an ordinary user's PATH does not: sbin. */
export function find (program: Program): string | undefined {
  const folders = `${process.env.PATH}:/usr/sbin:/sbin`.split(':')
  return folders.map((folder) => join(folder, program)).find(executable)
}

/** The program's path, for a test that has declared it with {@link programs}. */
export function path (program: Program): string {
  const found = find(program)
  if (found === undefined) throw new Error(absent([program]))
  return found
}

export function programs (...names: Program[]): Need {
  return () => {
    const missing = names.filter((name) => find(name) === undefined)
    return missing.length === 0 ? undefined : absent(missing)
  }
}

/** uvu's `test` for tests with needs: one that is not met skips the test and says so, and fails it where CI is set. */
export function testWith (...needs: Need[]): (name: string, body: () => Promise<void>) => void {
  const missing = needs.map((need) => need()).find((reason) => reason !== undefined)
  if (missing === undefined) return test
  if (process.env.CI) return (name) => test(name, () => { throw new Error(missing) })
  return (name) => skip(name, missing)
}

/** Counts a test as skipped, and has the test runner say why. */
export function skip (name: string, reason: string): void {
  console.log(`skipped: ${name}: ${reason}`)
  test.skip()
}

function absent (missing: Program[]): string {
  const wanted = [...new Set(missing.map((name) => packages[name]))]
  return `${missing.join(', ')} missing: apt-get install ${wanted.join(' ')}`
}

function executable (file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}
