// What a guest boots into: busybox, the host's mkfs.ext4, e2fsck and fio with the libraries that they need, the
// kernel's modules and the test's script, which guest-init.sh runs.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { appendFileSync, copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { archive, type Entry } from './cpio.ts'
import { cache } from './debian.ts'
import { path, type Program } from './programs.ts'

export const guestPrograms: Program[] = ['busybox', 'mkfs.ext4', 'e2fsck', 'fio', 'blkdiscard']

const init = new URL('guest-init.sh', import.meta.url)

/** Writes the initramfs for one boot. It is not compressed: an emulated processor would take long to unpack it. */
export function writeInitramfs (file: string, modules: readonly string[], script: string): void {
  copyFileSync(base(), file)
  appendFileSync(file, archive(withFolders(bootEntries(modules, script))))
}

/** An initramfs with nothing but busybox, for a guest with another processor than this machine's. */
export function smallInitramfs (busybox: string, modules: readonly string[], script: string): Buffer {
  return archive(withFolders([{ path: 'bin/busybox', contents: readFileSync(busybox) }, ...bootEntries(modules, script)]))
}

/** What is different from boot to boot. */
function bootEntries (modules: readonly string[], script: string): Entry[] {
  return [
    { path: 'init', contents: readFileSync(init) },
    { path: 'script', contents: Buffer.from(script) },
    // The shell's wildcard sorts by name.
    ...modules.map((module, index) => ({ path: `modules/${10 + index}-${basename(module)}`, contents: readFileSync(module) }))
  ]
}

/** The larger part, the same for all boots. A new version of a program makes a new one. */
function base (): string {
  const files = hostFiles()
  const versions = files.map(([from, to]) => [to, statSync(from).size, statSync(from).mtimeMs])
  const key = createHash('sha256').update(JSON.stringify(versions)).digest('hex').slice(0, 16)
  const file = join(cache, `initramfs-${key}.cpio`)
  if (existsSync(file)) return file

  mkdirSync(cache, { recursive: true })
  const entries = files.map(([from, to]) => ({ path: to, contents: readFileSync(from) }))
  writeFileSync(`${file}.${process.pid}`, archive(withFolders(entries)))
  renameSync(`${file}.${process.pid}`, file)
  return file
}

/** Each file of the host and where it goes. */
function hostFiles (): Array<[from: string, to: string]> {
  const programs = guestPrograms.map((name): [string, string] => [path(name), `bin/${name}`])
  const libraries = new Set(programs.flatMap(([program]) => librariesOf(program)))
  return [...programs, ...[...libraries].map((library): [string, string] => [library, library.slice(1)])]
}

/** Shared libraries by their absolute paths, the dynamic loader among them; none for a static program. */
function librariesOf (program: string): string[] {
  return spawnSync('ldd', [program], { encoding: 'utf8' }).stdout.match(/(?<=\s)\/\S+/g) ?? []
}

/** With the folders that hold the entries: the kernel does not make them by itself. */
function withFolders (entries: readonly Entry[]): Entry[] {
  const folders = new Set<string>()
  for (const { path } of entries) {
    for (let folder = dirname(path); folder !== '.'; folder = dirname(folder)) folders.add(folder)
  }
  return [...[...folders].sort().map((path) => ({ path })), ...entries]
}
