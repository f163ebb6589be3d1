#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Dom0's first program: the image below, memory above, then /lab/init in it.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r m; do
	$b insmod "/modules/$m" || echo "initrd: insmod $m failed"
done </modules/order
i=0
while [ ! -b /dev/vdb ]; do
	i=$((i + 1))
	[ $i -lt 100 ] || { echo "initrd: no disks"; $b poweroff -f; }
	$b usleep 50000
done
$b mkdir -p /image /payload /memory /root
$b mount -t tmpfs -o size=75% tmpfs /memory
$b mkdir -p /memory/root /memory/root.w /memory/lab /memory/lab.w
give_up() {
	echo "initrd: cannot mount $1"
	$b poweroff -f
}
$b mount -t squashfs -o ro /dev/vda /image || give_up /dev/vda
$b mount -t squashfs -o ro /dev/vdb /payload || give_up /dev/vdb
$b mount -t overlay -o lowerdir=/image,upperdir=/memory/root,workdir=/memory/root.w overlay /root ||
	give_up /
$b mount -t overlay -o lowerdir=/payload,upperdir=/memory/lab,workdir=/memory/lab.w overlay /root/lab ||
	give_up /lab
for m in dev proc sys; do
	$b mount --move /$m /root/$m
done
exec $b switch_root /root /lab/init
