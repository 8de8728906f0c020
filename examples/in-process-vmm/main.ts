// usage: node ../../tools/run.mjs main.ts [image]
import { closeSync, mkdtempSync, openSync, ftruncateSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Guest } from './guest.ts'
import { Vmm } from './vmm.ts'

const directory = mkdtempSync(join(tmpdir(), 'in-process-vmm-'))
const image = process.argv[2] ?? makeImage(join(directory, 'disk.img'), 64 << 20)
const vmm = new Vmm(image, 16 << 20)
try {
  const guest = new Guest(vmm)
  await vmm.driverOk(guest.registers)
  console.log(`the guest's disk has ${vmm.disk.capacity} bytes, served through ${vmm.disk.engine.name}`)

  const written = Buffer.from('written by the guest'.padEnd(512))
  await guest.write(2048, written)
  await guest.flush()

  // The image is the VMM's alone in here: to copy it, to grow it, to take a snapshot.
  await vmm.whilePaused(async () => console.log('paused: no request is in flight', vmm.disk.inFlight))

  const read = Buffer.from(await guest.read(2048, 512))
  console.log(`the guest read back: ${read.toString().trim()}`)
  if (!read.equals(written)) throw new Error('that is not what was written')
  const { requests, interrupts } = vmm.disk.statistics(0)
  console.log(`${requests} requests, ${interrupts} interrupts`)
} finally {
  await vmm.powerOff()
  rmSync(directory, { recursive: true })
}

function makeImage (path: string, bytes: number): string {
  const fd = openSync(path, 'w')
  ftruncateSync(fd, bytes)
  closeSync(fd)
  return path
}
