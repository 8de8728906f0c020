import { execFileSync } from 'node:child_process'
import { closeSync, ftruncateSync, openSync, rmSync } from 'node:fs'

/** A block device over a sparse file. */
export interface LoopDevice {
  readonly path: string
  /** The file behind it. */
  readonly file: string
  /** Its name below `/sys/block`. */
  readonly name: string
}

/** What to make. */
export interface LoopDeviceOptions {
  /** Where its file goes: the file system decides what the device can do. */
  readonly directory: string
  /** Its size. */
  readonly bytes: number
  /** @default 512 */
  readonly logicalBlockBytes?: number
}

let count = 0

/**
 * Has a test use a loop device, where this process may make one (`losetup` of util-linux, as root). Where it may not,
 * the reason is printed and the test is not run.
 */
export async function withLoopDevice (options: LoopDeviceOptions, body: (device: LoopDevice) => void | Promise<void>): Promise<void> {
  const { directory, bytes, logicalBlockBytes = 512 } = options
  const file = `${directory}/node-vmm-loop-${process.pid}-${count++}`
  const fd = openSync(file, 'w+')
  ftruncateSync(fd, bytes)
  closeSync(fd)
  try {
    const path = attach(file, logicalBlockBytes)
    if (path === undefined) return
    try {
      await body({ path, file, name: path.slice('/dev/'.length) })
    } finally {
      losetup('--detach', path)
    }
  } finally {
    rmSync(file)
  }
}

function attach (file: string, logicalBlockBytes: number): string | undefined {
  try {
    return losetup('--find', '--show', '--sector-size', `${logicalBlockBytes}`, file)
  } catch (error) {
    console.log(`skipped: no loop device can be made here: ${(error as Error).message.trim().split('\n').at(-1)}`)
    return undefined
  }
}

function losetup (...options: string[]): string {
  return execFileSync('losetup', options, { encoding: 'utf8', timeout: 60_000, stdio: ['ignore', 'pipe', 'pipe'] }).trim()
}
