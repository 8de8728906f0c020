// A Linux for the machine: Debian's 32-bit kernel and busybox.
import { readFileSync } from 'node:fs'
import { pcDownload, pcFiles } from '../../test/support/i386.ts'
import { smallInitramfs } from '../../test/support/initramfs.ts'
import type { PcFiles } from './emulator.ts'

/** A shell on the serial line, with the disk mounted where it has a file system. */
export const SHELL = `
set +x
echo 'The disk is /dev/vda. To switch the machine off, leave the shell (exit); Ctrl-] pulls the plug.'
mount /dev/vda /mnt && echo 'Mounted on /mnt.' || true
setsid sh -c 'cd; exec sh <>/dev/ttyS0 >&0 2>&1'
umount /mnt || true
`

/** Downloads Linux the first time. @returns why that is impossible, and what helps */
export const linuxDownload = pcDownload

/** @param script what the shell runs once the kernel is up. @param parameters more for the kernel */
export function linux (script: string, parameters: string): PcFiles {
  const { kernel, bios, vgaBios, busybox } = pcFiles()
  return {
    bios: readFileSync(bios),
    vgaBios: readFileSync(vgaBios),
    kernel: readFileSync(kernel.file),
    initramfs: smallInitramfs(busybox, kernel.modules, script),
    // What an emulated processor need not spend time on.
    commandLine: `console=ttyS0 tsc=reliable mitigations=off random.trust_cpu=on cryptomgr.notests ${parameters}`
  }
}
