import { encodeHeader, fileSize } from '../../src/overlay-format.ts'
import { OverlayFile } from '../../src/overlay-file.ts'
import { Overlay } from '../../src/overlay.ts'
import { ram } from '../../src/ram.ts'
import { write } from './model.ts'
import { VolatileFile } from './volatile-file.ts'

/** A new overlay in a file whose power can be cut. */
export async function overlayOverFile (content: Uint8Array, clusterSize: number, random: () => number) {
  const base = ram({ capacity: content.length })
  await write(base, 0, content)
  const header = { capacity: content.length, clusterSize, baseSize: content.length, baseName: '' }
  const bytes = Buffer.alloc(fileSize(header))
  bytes.set(encodeHeader(header))

  async function open (bytes: Buffer) {
    const file = new VolatileFile(bytes, random)
    const overlayFile = await OverlayFile.load('the overlay', file, bytes.length)
    return { file, overlayFile, disk: new Overlay(overlayFile, base) }
  }

  return { ...await open(bytes), reopen: async (bytes: Buffer) => (await open(bytes)).disk }
}
