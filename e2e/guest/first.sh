#!/bin/sh
# The guest's first process: mounts the machine's files, read only, below a layer in memory, and goes on from there.
set -e
mount -t devtmpfs devtmpfs /dev
exec >/dev/ttyS0 2>&1
for module in /modules/*; do insmod "$module"; done
# nothing that the guest reads changes under it as far as it can see: so it may keep all that it has read
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose machine /lower
mount -t tmpfs -o mode=0755 tmpfs /upper
mkdir /upper/changes /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work overlay /root
. /settings
mount -t tmpfs -o mode=0755 tmpfs /root/run
cat /settings >/root/run/settings
mount -t devtmpfs devtmpfs /root/dev
echo "hotnic guest: up"
exec switch_root /root /bin/sh "$TREE/e2e/guest/second.sh"
