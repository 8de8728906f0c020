// usage: node ../../tools/run.mjs boot.ts --vmm=NAME --kernel=FILE --socket=PATH [option …]
import { spawn } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { parseArgs } from 'node:util'
import { type CommandLine, commandLines } from './command-lines.ts'
import { shellText } from './shell.ts'

const HELP = `Boots a Linux guest whose disk is behind a vhost-user-blk server's socket, with the console on this terminal.

  --vmm=NAME         ${Object.keys(commandLines).join(', ')}
  --kernel=FILE      the guest's kernel; for uml the program linux.uml
  --socket=PATH      the server's socket
  --initrd=FILE      an initramfs, where the kernel has not all drivers built in (default none)
  --memory=MIB       the guest's memory (default 512)
  --processors=N     (default 1)
  --parameters=TEXT  what the kernel is told (default 'root=/dev/vda rw')
  --accel=NAME       qemu: its accelerator, kvm or tcg (default kvm)
  --print            print the command line, and start nothing`

const { values } = parseArgs({
  options: {
    vmm: { type: 'string', default: '' },
    kernel: { type: 'string' },
    socket: { type: 'string' },
    initrd: { type: 'string' },
    memory: { type: 'string', default: '512' },
    processors: { type: 'string', default: '1' },
    parameters: { type: 'string', default: 'root=/dev/vda rw' },
    accel: { type: 'string', default: 'kvm' },
    print: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})
const { kernel, socket, initrd, parameters, accel: accelerator } = values
const commandLine = Object.hasOwn(commandLines, values.vmm) ? commandLines[values.vmm] : undefined
const [memory, processors] = [Number(values.memory), Number(values.processors)]
const areNumbers = [memory, processors].every((number) => Number.isInteger(number) && number > 0)
if (values.help || commandLine === undefined || kernel === undefined || socket === undefined || !areNumbers) {
  (values.help ? console.log : console.error)(HELP)
  process.exit(values.help ? 0 : 2)
}

const command = commandLine({ kernel, socket, initrd, parameters, accelerator, memory, processors })
if (values.print) process.stdout.write(shellText(command))
else start(command)

/** Ends as the VMM ends. */
function start ({ program, arguments: args, file }: CommandLine): void {
  if (file !== undefined) writeFileSync(file.path, file.text)
  const removeFile = (): void => { if (file !== undefined) rmSync(file.path) }
  // Ctrl-C is the VMM's: on a terminal it gets that too.
  process.on('SIGINT', () => {})
  const vmm = spawn(program, args, { stdio: 'inherit' })
  process.on('SIGTERM', () => vmm.kill())
  vmm.once('error', (error) => {
    removeFile()
    console.error(`${program} cannot be started: ${error.message}`)
    process.exitCode = 1
  })
  vmm.once('exit', (status, signal) => {
    removeFile()
    process.exitCode = status ?? 128 + constants.signals[signal!]
  })
}
