/** A file for an initramfs; without contents it is a folder. */
export interface Entry {
  readonly path: string
  readonly contents?: Buffer
}

/**
 * An archive as the kernel unpacks it (cpio `newc`, Documentation/driver-api/early-userspace/buffer-format.rst).
 * Several of them one after the other are an initramfs as well. Everything in it may be executed.
 */
export function archive (entries: readonly Entry[]): Buffer {
  const members = entries.map(({ path, contents }, index) =>
    contents === undefined ? member(path, index + 1, 0o40755) : member(path, index + 1, 0o100755, contents))
  return Buffer.concat([...members, member('TRAILER!!!', 0, 0)])
}

function member (path: string, inode: number, mode: number, contents: Buffer = Buffer.alloc(0)): Buffer {
  const name = Buffer.from(`${path}\0`)
  const [user, group, links, time, device] = [0, 0, 1, 0, 0]
  const fields = [
    inode, mode, user, group, links, time, contents.length, device, device, device, device, name.length, 0
  ]
  const header = Buffer.from('070701' + fields.map((field) => field.toString(16).padStart(8, '0')).join(''))
  return Buffer.concat([padded(Buffer.concat([header, name])), padded(contents)])
}

function padded (bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])
}
