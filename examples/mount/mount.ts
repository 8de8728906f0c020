// usage: node ../../tools/run.mjs mount.ts SOCKET [--copy=FILE]
import { parseArgs } from 'node:util'
import { BlockDriver } from '@node-vmm/virtio-blk-driver'
import { copyDisk } from './copy.ts'
import { featureNames } from './features.ts'
import { readFileSystem } from './ext4.ts'
import { readPartitions } from './partitions.ts'

const HELP = `Looks at the disk of a vhost-user-blk server: what it can do, its partitions and its file systems.

  SOCKET        the server's; it must not be serving a guest at the same time
  --copy=FILE   copies the disk to a new file; blocks of zeroes become holes`

const { values: { copy, help }, positionals: [socketPath, ...others] } = parseArgs({
  allowPositionals: true,
  options: { copy: { type: 'string' }, help: { type: 'boolean', default: false } }
})
if (help || socketPath === undefined || others.length > 0) {
  (help ? console.log : console.error)(HELP)
  process.exit(help ? 0 : 2)
}

try {
  const disk = await BlockDriver.connect({ socketPath })
  try {
    await show(disk)
    if (copy !== undefined) await copyTo(disk, copy)
  } finally {
    await disk.close()
  }
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 1
}

async function show (disk: BlockDriver): Promise<void> {
  const { capacity, blockSize, readOnly, queues } = disk.config
  row('disk', `${size(capacity)}, blocks of ${blockSize}, ${readOnly ? 'read-only' : 'read-write'}, queues: ${queues}`)
  row('serial', await disk.getId() || 'none')
  row('features', featureNames(disk.features).join(' '))

  const whole = { offset: 0, length: capacity, type: 'whole disk' }
  for (const { offset, length, type } of [whole, ...await readPartitions(disk)]) {
    if (type !== whole.type) row('partition', `at ${offset}: ${size(length)}, ${type}`)
    const found = await readFileSystem(disk, offset, length)
    if (found === undefined) continue
    const { kind, label, uuid, bytes, free } = found
    row(kind, `label ${label || 'none'}, ${size(bytes)}, ${Math.round(100 * free / bytes)} % free, UUID ${uuid}`)
  }
}

async function copyTo (disk: BlockDriver, file: string): Promise<void> {
  const started = performance.now()
  const { data } = await copyDisk(disk, file)
  const seconds = (performance.now() - started) / 1000
  row('copied', `to ${file}: ${size(disk.config.capacity)}, ${size(data)} of it data, in ${seconds.toFixed(2)} s`)
}

/** Names and labels are the disk's: without what would do things to the terminal. */
function row (label: string, text: string): void {
  console.log(`${label.padEnd(10)} ${text.replace(/\p{Cc}/gu, '?')}`)
}

function size (bytes: number): string {
  return bytes < 1 << 20 ? `${bytes} bytes` : `${Math.round(10 * bytes / 2 ** 20) / 10} MiB`
}
