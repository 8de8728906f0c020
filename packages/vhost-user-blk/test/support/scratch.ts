import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A directory for sockets and images, removed when the process ends. */
export const directory = mkdtempSync(join(tmpdir(), 'node-vmm-blk-'))
/** The same in memory: for images that are to be mapped. */
const inMemory = mkdtempSync('/dev/shm/node-vmm-blk-')
process.on('exit', () => { for (const each of [directory, inMemory]) rmSync(each, { recursive: true, force: true }) })

let names = 0

/** A path at which nothing is. */
export function newPath (): string {
  return join(directory, `${names++}`)
}

/** A sparse image of zeros, where an engine can serve it. */
export function newImage (bytes = 1 << 20, engine?: string): string {
  const path = engine === 'mapped' ? join(inMemory, `${names++}`) : newPath()
  writeFileSync(path, '')
  truncateSync(path, bytes)
  return path
}
