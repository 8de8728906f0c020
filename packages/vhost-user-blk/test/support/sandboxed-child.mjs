// Enters the built program's sandbox, tries what it should not be able to do any more, and prints what came of it as JSON.
import { enterSandbox } from '../../dist/index.js'
import { execFileSync } from 'node:child_process'
import { chmodSync, linkSync, mkdirSync, openSync, readFileSync, renameSync, symlinkSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createConnection, createServer } from 'node:net'
import { Worker } from 'node:worker_threads'

const [folder, ioUring] = process.argv.slice(2)
const koffi = createRequire(new URL('../../../libc/package.json', import.meta.url))('koffi')
const syscall = koffi.load('libc.so.6').func('long syscall(long number, long a, long b, long c, long d, long e)')
/** Numbers on x86-64 and arm64. */
const numbers = {
  execve: [59, 221], execveat: [322, 281], fork: [57], vfork: [58], clone3: [435, 435], socket: [41, 198], socketpair: [53, 199], connect: [42, 203],
  bind: [49, 200], listen: [50, 201], ptrace: [101, 117], kill: [62, 129],
  pidfd_open: [434, 434], pidfd_getfd: [438, 438], mount: [165, 40], umount2: [166, 39], pivot_root: [155, 41], chroot: [161, 51],
  unshare: [272, 97], setns: [308, 268], bpf: [321, 280], perf_event_open: [298, 241], userfaultfd: [323, 282], keyctl: [250, 219],
  add_key: [248, 217], init_module: [175, 105], finit_module: [313, 273], kexec_load: [246, 104], reboot: [169, 142], setuid: [105, 146],
  setgroups: [116, 159], capset: [126, 91], seccomp: [317, 277], unlink: [87], unlinkat: [263, 35], rename: [82], renameat2: [316, 276],
  mknodat: [259, 33], open_by_handle_at: [304, 265], name_to_handle_at: [303, 264], openat2: [437, 437], creat: [85], io_uring_setup: [425, 425], quotactl: [179, 60],
  swapon: [167, 224], iopl: [172], modify_ldt: [154], sethostname: [170, 161], settimeofday: [170, 170]
}
const call = (name, ...args) => {
  const number = numbers[name][process.arch === 'x64' ? 0 : 1]
  if (number === undefined) return undefined
  return syscall(number, ...[...args, 0, 0, 0, 0, 0].slice(0, 5)) < 0 ? koffi.errno() : 0
}
const attempt = (action) => {
  try {
    action()
    return 'done'
  } catch (error) {
    return error.code
  }
}
const settled = (promise) => promise.then(() => 'done', (error) => error.code)
const event = (emitter, good) => new Promise((resolve) => {
  emitter.once(good, () => resolve('done'))
  emitter.once('error', (error) => resolve(error.code))
})

const file = `${folder}/file`
writeFileSync(file, 'here before')
const report = await enterSandbox({ bestEffort: process.getuid() === 0, ioUring: ioUring === 'io_uring' })
const [CLONE, TGKILL, PRCTL, IOCTL, PRLIMIT, READV, WRITEV, UTIMENSAT] = process.arch === 'x64' ? [56, 234, 157, 16, 302, 310, 311, 280] : [220, 131, 167, 29, 261, 270, 271, 88]
const direct = (number, ...args) => syscall(number, ...[...args, 0, 0, 0, 0, 0].slice(0, 5)) < 0 ? koffi.errno() : 0
console.log(JSON.stringify({
  report,
  // Not those that other entries cover, and would end the process where they were possible.
  calls: Object.fromEntries(Object.keys(numbers).map((name) => [name, call(name)]).filter(([, errno]) => errno !== undefined)),
  arguments: {
    'clone of a process': direct(CLONE, 17),
    'tgkill of another': direct(TGKILL, process.ppid, process.ppid, 0),
    'prctl PR_SET_DUMPABLE': direct(PRCTL, 4, 1),
    'prctl PR_SET_SECCOMP': direct(PRCTL, 22, 2),
    'ioctl TIOCSTI': direct(IOCTL, 0, 0x5412),
    'prlimit64 of another': direct(PRLIMIT, process.ppid, 7),
    'prlimit64 that sets': direct(PRLIMIT, 0, 7, 4096),
    'process_vm_readv of its parent': direct(READV, process.ppid, 0, 0, 0, 0),
    'process_vm_writev of its parent': direct(WRITEV, process.ppid, 0, 0, 0, 0),
    'process_vm_readv of the first process': direct(READV, 1, 0, 0, 0, 0),
    'utimensat of a path': direct(UTIMENSAT, -100, 4096, 0, 0),
    'utimensat of a path whose address has no low half': direct(UTIMENSAT, -100, 2 ** 32, 0, 0)
  },
  ways: {
    'run a program': attempt(() => execFileSync('true')),
    'make a file': attempt(() => writeFileSync(`${folder}/new`, '')),
    'write a file': attempt(() => openSync(file, 'r+')),
    'append to a file': attempt(() => openSync(file, 'a')),
    'truncate a file': attempt(() => truncateSync(file)),
    'remove a file': attempt(() => unlinkSync(file)),
    'rename a file': attempt(() => renameSync(file, `${file}2`)),
    'link a file': attempt(() => linkSync(file, `${file}2`)),
    'make a symbolic link': attempt(() => symlinkSync(file, `${file}2`)),
    'change a mode': attempt(() => chmodSync(file, 0o777)),
    'make a folder': attempt(() => mkdirSync(`${folder}/folder`)),
    'connect to a socket': await event(createConnection(`${folder}/socket`), 'connect'),
    'listen on a socket': await event(createServer().listen(`${folder}/socket2`), 'listening'),
    'listen on TCP': await event(createServer().listen(0), 'listening')
  },
  reading: {
    'its own code': attempt(() => readFileSync(new URL('../../dist/index.js', import.meta.url))),
    'its own code, by a thread of the pool': await settled(readFile(new URL('../../dist/index.js', import.meta.url))),
    'another file': attempt(() => readFileSync(file)),
    'another file, by a new thread': await new Promise((resolve, reject) => {
      const worker = new Worker(`try { require('node:fs').readFileSync(${JSON.stringify(file)}); code = 'done' } catch (error) { code = error.code }; require('node:worker_threads').parentPort.postMessage(code)`, { eval: true })
      worker.once('message', resolve)
      worker.once('error', reject)
    })
  }
}))
