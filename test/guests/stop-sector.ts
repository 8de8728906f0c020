import { closeSync, openSync, statSync, writeSync } from 'node:fs'

/** A shell function for a guest, `until asked_to_stop; do ...`, which looks at the disk's last sector. */
export const stopSector = (mebibytes: number): string => `
asked_to_stop () {
  echo 1 >/proc/sys/vm/drop_caches
  [ "$(dd if=/dev/vda bs=512 skip=${mebibytes * 2048 - 1} count=1 2>/dev/null | head -c 4)" = stop ]
}
`

/** Asks for it, from the host, behind the guest's and the server's back. */
export function writeStopSector (image: string): void {
  const file = openSync(image, 'r+')
  writeSync(file, 'stop', statSync(image).size - 512)
  closeSync(file)
}
