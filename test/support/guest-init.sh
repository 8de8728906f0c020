#!/bin/busybox sh
# The first process of a test guest: runs the test's script and powers off. Lines `@@ name value` on the console are
# results for the host, the last of them `@@ end STATUS`; everything else is there for failure messages.
export PATH=/bin:/busybox
/bin/busybox mkdir -p /busybox /proc /sys /dev /tmp /mnt
/bin/busybox --install -s /busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null

for module in /modules/*; do insmod "$module"; done

say () { echo "@@ $*"; }

# Commands are echoed: the last one is the one that failed.
(set -e -x; . /script)
status=$?
[ $status = 0 ] || dmesg | tail -n 40
say end $status
poweroff -f
