import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, constants, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { path } from './programs.ts'
import { temporaryFolder } from './temporary.ts'

/** A disk image that reads as zeroes; below `folder`, where it is to be on another file system. */
export function blankImage (mebibytes: number, folder?: string): string {
  const image = join(temporaryFolder(folder), 'disk.img')
  writeFileSync(image, '')
  truncateSync(image, mebibytes * 1024 * 1024)
  return image
}

/** Why files cannot be opened past the page cache below `folder`, undefined where they can: tmpfs has O_DIRECT since Linux 6.6. */
export function directRefused (folder?: string): string | undefined {
  try {
    closeSync(openSync(blankImage(1, folder), constants.O_RDWR | constants.O_DIRECT))
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

/** A disk image with an ext4 file system that holds a copy of this folder's files. */
export function imageOf (folder: string, mebibytes: number): string {
  const image = blankImage(mebibytes)
  execFileSync(path('mkfs.ext4'), ['-q', '-F', '-d', folder, image])
  return image
}

/** @throws with e2fsck's words where the file system is not sound. */
export function checkFileSystem (image: string): void {
  const { status, stdout, stderr } = spawnSync(path('e2fsck'), ['-f', '-n', image], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`e2fsck ${image}: status ${status}\n${stdout}${stderr}`)
}

export function checksum (file: string): string {
  return createHash('md5').update(readFileSync(file)).digest('hex')
}
