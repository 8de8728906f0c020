import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { killAll } from './processes.ts'

/** A parent for what is to be in memory: the engine that maps images takes no others. */
export const MEMORY_FOLDER = '/dev/shm'

const folders = new Set<string>()
process.on('exit', removeFolders)

/** Goes with the next {@link cleanUp}. It is on a disk, which /tmp need not be, so that O_DIRECT works in it. */
export function temporaryFolder (parent = process.env.TMPDIR ?? '/var/tmp'): string {
  const folder = mkdtempSync(join(parent, 'node-vmm-'))
  folders.add(folder)
  return folder
}

/** For `test.after.each`: a test leaves nothing running and no files, even where it failed half-way. */
export async function cleanUp (): Promise<void> {
  await killAll()
  removeFolders()
}

function removeFolders (): void {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
  folders.clear()
}
