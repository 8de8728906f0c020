// usage: node tools/run.mjs examples/v86/v86.ts --image=disk.img [--memory=MIB] [--script=FILE] [--verbose]
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { linux, linuxDownload, SHELL } from './linux.ts'
import { Machine } from './machine.ts'

const HELP = `Boots Linux in an emulated PC, with an image as its disk /dev/vda.

  --image=PATH   the raw disk image; to make one: truncate -s 64M disk.img && mkfs.ext4 disk.img
  --memory=MIB   the PC's memory (default 128)
  --script=FILE  runs in the guest's shell instead of a shell on this terminal
  --verbose      show what the kernel says while it boots`

/** Ctrl-] */
const PULL_THE_PLUG = '\x1d'

const { values } = parseArgs({
  options: {
    image: { type: 'string' },
    memory: { type: 'string', default: '128' },
    script: { type: 'string' },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})
if (values.help || values.image === undefined) end(values.help ? 0 : 2, HELP)
const missing = linuxDownload()
if (missing !== undefined) end(1, missing)

const script = values.script === undefined ? SHELL : readFileSync(values.script, 'utf8')
const machine = await Machine.create({
  files: linux(script, values.verbose ? '' : 'quiet'),
  memoryBytes: Number(values.memory) * 2 ** 20,
  disk: { path: values.image, serial: 'v86' },
  onSerial: (byte) => process.stdout.write(Uint8Array.of(byte)),
  onFault: (message) => console.error(`the disk's driver is at fault: ${message}`)
}).catch((error: Error) => end(1, error.message))
const unplugged = new Promise<void>((resolve) => {
  process.stdin.setRawMode?.(true)
  process.stdin.on('data', (typed) => {
    if (process.stdin.isTTY && typed.includes(PULL_THE_PLUG)) resolve()
    else machine.type(typed.toString())
  })
})
await machine.run()
await Promise.race([machine.halted, unplugged])

process.stdin.setRawMode?.(false)
await machine.powerOff()
const { requests, bytesRead, bytesWritten, kicks, interrupts } = machine.disk.disk.statistics(0)
end(0, `${requests} requests (${bytesRead} bytes read, ${bytesWritten} written), ${kicks} kicks, ${interrupts} interrupts`)

function end (status: number, message: string): never {
  (status === 0 ? console.log : console.error)(message)
  process.exit(status)
}
