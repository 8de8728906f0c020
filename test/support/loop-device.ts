import { execFileSync } from 'node:child_process'
import { closeSync, openSync, rmSync, ftruncateSync } from 'node:fs'

/** A block device over a sparse file. */
export interface LoopDevice {
  readonly path: string
  /** The file behind it. */
  readonly file: string
  /** Its name below `/sys/block`. */
  readonly name: string
  remove (): void
}

let count = 0

/**
 * Makes a loop device, where this process may (`losetup` of util-linux, as root).
 *
 * @param directory where its file goes: the file system decides what the device can do.
 * @returns undefined where it may not; the reason is printed.
 */
export function loopDevice (directory: string, bytes: number, logicalBlockBytes = 512): LoopDevice | undefined {
  const file = `${directory}/node-vmm-loop-${process.pid}-${count++}`
  const fd = openSync(file, 'w+')
  ftruncateSync(fd, bytes)
  closeSync(fd)
  try {
    const path = execFileSync('losetup', ['--find', '--show', '--sector-size', `${logicalBlockBytes}`, file],
      { encoding: 'utf8', timeout: 10_000, stdio: ['ignore', 'pipe', 'pipe'] }).trim()
    const remove = (): void => {
      execFileSync('losetup', ['--detach', path], { timeout: 10_000 })
      rmSync(file)
    }
    return { path, file, name: path.slice('/dev/'.length), remove }
  } catch (error) {
    rmSync(file)
    console.log(`skipped: no loop device can be made here: ${(error as Error).message.trim().split('\n').at(-1)}`)
    return undefined
  }
}
