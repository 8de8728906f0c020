import type { BlockDriver } from '@node-vmm/virtio-blk-driver'

/** What a super block says of its file system. */
export interface FileSystem {
  readonly kind: 'ext2' | 'ext3' | 'ext4'
  readonly label: string
  readonly uuid: string
  readonly bytes: number
  /** Bytes that are not in use. */
  readonly free: number
}

// struct ext4_super_block: Linux, Documentation/filesystems/ext4/super.rst
const SUPER_BLOCK = 1024
const SUPER_BLOCK_BYTES = 1024
const MAGIC = 0xef53
const COMPAT_HAS_JOURNAL = 0x4
const INCOMPAT_EXTENTS = 0x40
const INCOMPAT_64BIT = 0x80

/** The ext2, ext3 or ext4 in a part of the disk; undefined where there is none. */
export async function readFileSystem (disk: BlockDriver, offset: number, length: number): Promise<FileSystem | undefined> {
  if (length < SUPER_BLOCK + SUPER_BLOCK_BYTES) return undefined
  const block = Buffer.from(await disk.read(offset + SUPER_BLOCK, SUPER_BLOCK_BYTES))
  if (block.readUInt16LE(0x38) !== MAGIC) return undefined
  const compatible = block.readUInt32LE(0x5c)
  const incompatible = block.readUInt32LE(0x60)
  const blockBytes = 1024 << block.readUInt32LE(0x18)
  const count = (low: number, high: number): number =>
    block.readUInt32LE(low) + ((incompatible & INCOMPAT_64BIT) !== 0 ? block.readUInt32LE(high) * 2 ** 32 : 0)
  return {
    kind: (incompatible & INCOMPAT_EXTENTS) !== 0 ? 'ext4' : (compatible & COMPAT_HAS_JOURNAL) !== 0 ? 'ext3' : 'ext2',
    label: block.toString('utf8', 0x78, 0x88).replace(/\0.*$/s, ''),
    uuid: block.toString('hex', 0x68, 0x78).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-'),
    bytes: count(0x4, 0x150) * blockBytes,
    free: count(0xc, 0x158) * blockBytes
  }
}
