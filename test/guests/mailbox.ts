import { closeSync, openSync, statSync, writeSync } from 'node:fs'

/**
 * How the host speaks to a guest while it runs: by the disk's last sector, which the guest must not use otherwise.
 * Defines a shell function, `until told WORD; do ...`.
 */
export const mailbox = (diskMebibytes: number): string => `
told () {
  # busybox's dd cannot read past the page cache where its buffer is not aligned.
  echo 1 >/proc/sys/vm/drop_caches
  [ "$(dd if=/dev/vda bs=512 skip=${diskMebibytes * 2048 - 1} count=1 2>/dev/null | tr -d '\\0')" = "$1" ]
}
`

/** Tells the guest, behind its back and the server's. */
export function tell (image: string, word: string): void {
  const sector = Buffer.alloc(512)
  sector.write(word)
  const file = openSync(image, 'r+')
  writeSync(file, sector, 0, sector.length, statSync(image).size - sector.length)
  closeSync(file)
}
