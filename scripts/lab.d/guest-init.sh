#!/bin/busybox sh
# shellcheck shell=dash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# A guest's first program.  Its kernel command line says lab.name= and, with a
# network, lab.ip=.
/bin/busybox --install -s /bin
export PATH=/lab/bin:/bin:/sbin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run /tmp /root /sys/kernel/debug
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null

name=guest ip=
read -r cmdline </proc/cmdline
for word in $cmdline; do
	case $word in
	lab.name=*) name=${word#*=} ;;
	lab.ip=*) ip=${word#*=} ;;
	esac
done
hostname "$name"
ip link set lo up
if [ -n "$ip" ]; then
	modprobe xen-netfront
	i=0
	while [ ! -e /sys/class/net/eth0 ] && [ $i -lt 100 ]; do
		i=$((i + 1))
		usleep 100000
	done
	ip addr add "$ip/24" dev eth0
	ip link set eth0 up
fi
[ ! -x /lab/guest-start ] || /lab/guest-start
# Whatever ends is reaped here; the agent is started again should it die.
while :; do
	/lab/bin/labcon agent </dev/null >/dev/null 2>&1
	sleep 1
done
