#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Dom0's init: starts Xen's daemons and the guests, runs what the lab was given,
# and tells the launcher what happened.  /lab/conf is the launcher's.
#
# To the launcher, on the virtio port "log": lines of NAME, kind, text,
# separated by tabs (labcon writes the guests' to the same FIFO).
export PATH=/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/xen-4.20/bin
export HOME=/root TERM=linux LANG=C.UTF-8
# shellcheck source=/dev/null
. /lab/conf

mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /dev/shm /run/lab/guest /run/lock /run/xen /var/lib/xen /var/log/xen /lab/out
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t debugfs debugfs /sys/kernel/debug
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
hostname "$LAB_HOST"
printf '127.0.0.1 localhost\n' >/etc/hosts

port() {
	for p in /sys/class/virtio-ports/*; do
		if [ "$(cat "$p/name")" = "$1" ]; then
			echo "/dev/${p##*/}"
			return
		fi
	done
}
mkfifo /run/lab/hostlog /run/lab/output
log_port=$(port log) out_port=$(port output) files_port=$(port files)
say() { printf 'dom0\t%s\t%s\n' "$1" "$2" >&3; }

# Bring back what Dom0 knows of a failure.
collect() {
	d=/lab/out/dom0
	mkdir -p $d
	ps -eLo pid,tid,stat,wchan:24,time,args >$d/ps
	dmesg >$d/dmesg
	timeout 10 xl list >$d/xl-list 2>&1
	timeout 10 xenstore-ls -f >$d/xenstore 2>&1
	cp /run/lab/guest/*.hang $d/ 2>/dev/null
	timeout 20 tar -C /lab/out -cf "$files_port" .
}

# Then tell why, and wait for the launcher's end.
give_up() {
	tell fail "$1"
}

hung() {
	tell hung "$1"
}

tell() {
	collect
	say "$1" "$2"
	while :; do sleep 60; done
}

exec 3<>/run/lab/hostlog
(
	exec 3>&- 4<>"$log_port"
	busybox cat /run/lab/hostlog >&4 &
	# The one question of the launcher: what is going on?  When time is up.
	while read -r _ <&4; do
		collect
		printf 'dom0\t%s\t%s\n' "done" 124 >/run/lab/hostlog
	done
) &

labcon kmsg 3>&- &
(
	while :; do
		read -r up _ </proc/uptime
		say h "$up"
		sleep 5
	done
) &
say phase "Dom0 userspace"

modprobe -a xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs || give_up "modprobe"
mount -t xenfs xenfs /proc/xen
xenstored --pid-file /run/xen/xenstored.pid >/dev/null || give_up "xenstored"
timeout -k 5 "$LAB_STEP" xen-init-dom0 >/dev/null 2>/run/lab/xen-init-dom0 ||
	give_up "xen-init-dom0: $(cat /run/lab/xen-init-dom0)"
xenconsoled --pid-file=/run/xen/xenconsoled.pid || give_up "xenconsoled"
ip link set lo up
if [ "$LAB_NET" = 1 ]; then
	modprobe -a bridge xen-netback || give_up "modprobe bridge, xen-netback"
	ip link add br0 type bridge || give_up "bridge"
	ip addr add 10.77.0.1/24 dev br0 || give_up "bridge"
	ip link set br0 up || give_up "bridge"
fi
if [ "$LAB_LINK" = 1 ]; then
	modprobe virtio_net || give_up "modprobe virtio_net"
	printf '10.78.0.%s h%s\n' 1 1 2 2 >>/etc/hosts
	ip addr add "10.78.0.${LAB_HOST#h}/24" dev eth0 || give_up "the network of the hosts"
	ip link set eth0 up || give_up "the network of the hosts"
fi
if [ "$LAB_BMC" = 1 ]; then
	modprobe -a ipmi_si ipmi_devintf || give_up "modprobe ipmi"
fi
say phase "toolstack ready"

# NAME TYPE OPTION..., one guest per line.
names=
while read -r guest type options; do
	[ -n "$guest" ] || continue
	# shellcheck disable=SC2086 # options are words
	guest-create --no-wait "$guest" "$type" $options 2>/run/lab/create-error </dev/null || {
		case $? in
		124) hung "$guest: $(tail -n 1 /run/lab/create-error)" ;;
		*) give_up "$guest: $(tail -n 3 /run/lab/create-error | tr '\n' ' ')" ;;
		esac
	}
	names="$names${names:+ }$guest"
	say phase "$guest created"
done </lab/guests
for guest in $names; do
	labcon wait "$guest" "$LAB_GUEST_BOOT" 2>/dev/null || {
		state=$(labcon status "$guest")
		[ "$state" = starting ] || give_up "$guest: it is $state, while it should boot"
		hung "$guest: no sign of life after its creation (limit: $LAB_GUEST_BOOT s)"
	}
done
[ -z "$names" ] || say phase "guests up"

export LAB_GUESTS="$names" LAB_OUT=/lab/out LAB_RELEASE LAB_HOST LAB_NET LAB_SILENCE LAB_PATIENCE
cd /lab/run || give_up "/lab/run"

if [ "$LAB_MODE" = shell ]; then
	say start shell
	printf 'export PATH=%s\n' "$PATH" >/root/.bashrc
	printf 'PS1="%s# "\nalias ll="ls -l"\n' "$LAB_HOST" >>/root/.bashrc
	# shellcheck disable=SC2016 # for that shell
	LAB_ROWS=$LAB_ROWS LAB_COLS=$LAB_COLS TERM=$LAB_TERM setsid -c sh -c '
		stty sane rows "$LAB_ROWS" cols "$LAB_COLS"
		exec bash -i' <>/dev/hvc1 >&0 2>&1 3>&-
	status=$?
else
	busybox cat /run/lab/output >"$out_port" 3>&- &
	cat=$!
	say start script
	setsid sh -c '. /lab/command' </dev/null >/run/lab/output 2>&1 3>&-
	status=$?
	# Its last words first; a daemon left behind may hold the pipe open.
	i=0
	while kill -0 $cat 2>/dev/null && [ $i -lt 20 ]; do
		i=$((i + 1))
		sleep 0.1
	done
fi
say exit "$status"
# shellcheck source=/dev/null
. /lab/collect
tar -C /lab/out -cf "$files_port" .
say "done" "$status"
while :; do sleep 60; done
