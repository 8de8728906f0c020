import { bootUml, uml } from '../../test/support/guest.ts'

/** A real Linux kernel makes a file system on the disk, fills it, and checks it. */
const SCRIPT = `
say kernel "$(uname -r)"
mkfs.ext4 -q -F /dev/vda
mkdir -p /mnt && mount /dev/vda /mnt
for i in $(seq 200); do echo "file $i" > /mnt/$i; done
dd if=/dev/urandom of=/mnt/large bs=1M count=32 2>/dev/null
before=$(md5sum < /mnt/large)
umount /mnt
e2fsck -fn /dev/vda > /dev/null 2>&1
mount -o ro /dev/vda /mnt
[ "$(md5sum < /mnt/large)" = "$before" ]
say files "$(ls /mnt | grep -c '^[0-9]')"
umount /mnt
`

/** Boots Linux with the disk behind a socket. @returns a line on what it did, or on why there is no Linux to boot and what installs it */
export async function bootLinux (socketPath: string): Promise<string> {
  const missing = uml.map((need) => need()).find((reason) => reason !== undefined)
  if (missing !== undefined) return `not booted: ${missing}`
  const started = performance.now()
  const results = await bootUml({ socket: socketPath, script: SCRIPT }).finished()
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  return `${results.get('kernel')} in User-Mode Linux: ext4 made, ${results.get('files')} files and a large one written, ` +
    `unmounted, e2fsck clean, checksums equal; ${seconds} s`
}
