import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A directory for sockets and images, removed when the process ends. */
export const directory = mkdtempSync(join(tmpdir(), 'node-vmm-blk-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))

let names = 0

/** A path at which nothing is. */
export function newPath (): string {
  return join(directory, `${names++}`)
}

/** A sparse image of zeros. */
export function newImage (bytes = 1 << 20): string {
  const path = newPath()
  writeFileSync(path, '')
  truncateSync(path, bytes)
  return path
}
