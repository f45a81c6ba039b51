#!/bin/sh
# The guest, now with the machine's files: makes of it what a node is, runs the command, says how it ended, and ends.
. /run/settings

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm /dev/net /run/lock /run/netns
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ln -s /proc/self/fd /dev/fd
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# a node loads a module when it is first needed; so does this one, from the unpacked package
version=$(uname -r)
mkdir -p /usr/lib/modules
ln -sfn "$KERNEL/lib/modules/$version" "/usr/lib/modules/$version"
for tool in modprobe lsmod insmod rmmod depmod modinfo; do
    command -v "$tool" >/dev/null || ln -s "$KERNEL/bin/kmod" "/usr/sbin/$tool"
done
command -v modprobe >/proc/sys/kernel/modprobe
ip link set lo up
modprobe -a igb igbvf

stty -F /dev/ttyS1 raw
cd "$TREE"
sh -c "$COMMAND" </dev/null >/dev/ttyS1 2>&1
echo $? >/dev/ttyS2
busybox poweroff -f
