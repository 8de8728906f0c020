import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { path } from './programs.ts'

/** A folder that goes when the test process ends. It is on a disk (/tmp need not be), so O_DIRECT works in it. */
export function temporaryFolder (): string {
  const folder = mkdtempSync('/var/tmp/node-vmm-')
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A disk image that reads as zeroes. */
export function blankImage (mebibytes: number): string {
  const image = join(temporaryFolder(), 'disk.img')
  writeFileSync(image, '')
  truncateSync(image, mebibytes * 1024 * 1024)
  return image
}

/** A disk image with an ext4 file system that holds a copy of this folder's files. */
export function imageOf (folder: string, mebibytes: number): string {
  const image = blankImage(mebibytes)
  execFileSync(path('mkfs.ext4'), ['-q', '-F', '-d', folder, image])
  return image
}

/** @throws with e2fsck's words where the file system is not sound. */
export function checkFileSystem (image: string): void {
  execFileSync(path('e2fsck'), ['-f', '-n', image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

export function checksum (file: string): string {
  return createHash('md5').update(readFileSync(file)).digest('hex')
}
