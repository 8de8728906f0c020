import type { EngineName } from '@node-vmm/ioq'
import { Scratch } from './image.ts'

/** All of them. */
export const ENGINES: readonly EngineName[] = ['mapped', 'io_uring+linux-aio', 'io_uring', 'linux-aio', 'sync']

// Files for temporary use may be in memory, too.
const [onDisk, inMemory] = [new Scratch(process.env.TMPDIR ?? '/var/tmp'), new Scratch('/dev/shm')]
process.on('exit', () => { for (const scratch of [onDisk, inMemory]) scratch.remove() })

/** A folder for the files of a test, in which an engine can serve them: one of them takes files in memory only. */
export function scratchFor (engine: EngineName): Scratch {
  return engine === 'mapped' ? inMemory : onDisk
}
