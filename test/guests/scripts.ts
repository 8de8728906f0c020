// Pieces of guest scripts. See Boot.script for what runs them.

/**
 * Files of many sizes and a large one on /mnt, and their checksums in /tmp/sums. No two lines of them are alike, and one
 * process writes all the small ones: to start one takes User-Mode Linux 8 ms, and many times that on some machines.
 */
export const fill = `
set +x
cd /mnt
awk 'BEGIN { for (i = 1; i <= 300; i++) { file = "small-" i; for (j = 0; j < i; j++) printf "%096d\\n", i * 1000 + j >file; close(file) } }'
head -c 24m /dev/urandom >large
sync
find . -type f | sort | xargs md5sum >/tmp/sums
cd /
set -x
`

/** Compares /mnt with /tmp/sums. */
export const compare = `
(cd /mnt && md5sum -c -s /tmp/sums)
`

/** Several jobs with a file each, past the page cache, in requests of a sector to 256 KiB; read back and compared. */
export function verifiedLoad ({ jobs, mebibytes, sector = 512, folder = '/mnt' }: { jobs: number, mebibytes: number, sector?: number, folder?: string }): string {
  return `
fio --name=verify --directory=${folder} --size=${mebibytes}M --numjobs=${jobs} --rw=randwrite \\
  --bssplit=${sector}/10:4k/50:16k/20:64k/15:256k/5 --ioengine=libaio --iodepth=16 --direct=1 \\
  --verify=crc32c --verify_fatal=1 --minimal >/dev/null
rm ${folder}/verify.*
`
}

/** A file system made, filled, checked, mounted anew and compared, and a load. */
export const fileSystemRoundTrip = ({ jobs, sector = 512 }: { jobs: number, sector?: number }): string => `
say serial $(cat /sys/block/vda/serial)
say bytes $(($(cat /sys/block/vda/size) * 512))
mkfs.ext4 -F -q /dev/vda
mount /dev/vda /mnt
${fill}
${verifiedLoad({ jobs, mebibytes: 12, sector })}
fstrim /mnt
umount /mnt
e2fsck -f -n /dev/vda
mount /dev/vda /mnt
${compare}
umount /mnt
`

/** A read-only disk with a file system: every way to write is closed, and the file `greeting` can be read. */
export const readOnlyDisk = `
say ro $(cat /sys/block/vda/ro)
if dd if=/dev/zero of=/dev/vda bs=4096 count=1 oflag=direct; then say write accepted; else say write refused; fi
mount -t ext4 -o ro /dev/vda /mnt
if mount -o remount,rw /mnt; then say remount accepted; else say remount refused; fi
say greeting $(cat /mnt/greeting)
umount /mnt
e2fsck -f -n /dev/vda
`
