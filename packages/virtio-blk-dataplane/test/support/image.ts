import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SECTOR_BYTES } from '../../src/index.ts'

/** Bytes by which every sector, and every place in it, is known. */
export function sectorPattern (sector: number, sectors: number, version = 0): Uint8Array {
  const words = new Uint32Array(sectors * SECTOR_BYTES / 4)
  for (let index = 0; index < words.length; index++) words[index] = Math.imul(sector * 128 + index + 1, 0x9e3779b1) ^ Math.imul(version, 0x85ebca6b)
  return new Uint8Array(words.buffer)
}

/** A folder of its own for the files of a test. */
export class Scratch {
  readonly directory: string

  /** @param parent where it is made. @default the system's folder for temporary files */
  constructor (parent: string = tmpdir()) {
    this.directory = mkdtempSync(join(parent, 'virtio-blk-dataplane-'))
  }

  /** A file with these bytes, or that many zeros. */
  file (name: string, content: Uint8Array | number): string {
    const path = join(this.directory, name)
    writeFileSync(path, typeof content === 'number' ? Buffer.alloc(content) : content)
    return path
  }

  /** An image with the pattern in every sector. */
  image (name: string, sectors: number): string {
    return this.file(name, sectorPattern(0, sectors))
  }

  /** Sectors of an image, as the host finds them. */
  sectors (path: string, sector: number, sectors: number): Uint8Array {
    return new Uint8Array(readFileSync(path).subarray(sector * SECTOR_BYTES, (sector + sectors) * SECTOR_BYTES))
  }

  remove (): void {
    rmSync(this.directory, { recursive: true })
  }
}
