#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The guests of the lab, seen from Dom0.  Each face is a link to this file:
#
#   guest [-i] [-t] [-T SECONDS] NAME COMMAND [ARG...]
#       Run it there; its output and exit status are yours.  A single argument
#       goes to the guest's shell, several are executed as they are.
#       -i: pass standard input on; -t: on a pty, for an interactive shell;
#       -T: give up (124) after so long.  125: the guest is gone or hangs.
#   guest-put NAME SOURCE DEST      copy a file or directory into a guest
#   guest-get NAME SOURCE DEST      ... and out of it
#   guest-create [--no-wait] NAME TYPE [mem=160] [vcpus=1] [net=0|1] [extra=WORDS]
#                [config=LINE] [paused=1]
#       TYPE is pv or pvh.  Returns when the guest answers; 124: xl create hung.
#   guest-destroy NAME              destroy it, at once
#   guest-attach NAME               take its console up again (after a restore)
#   guests                          names, domain ids, types, state
set -u

dir=/run/lab/guest
# shellcheck source=/dev/null
. /lab/conf
self=${0##*/}

fail() {
	echo "$self: $*" >&2
	exit 125
}

usage() {
	sed -n 's/^#   //p' "$0" | grep "^$self" >&2
	exit 125
}

# Bounded: a toolstack that hangs is reported as such, never waited for.
xl_() {
	timeout -k 5 "$LAB_STEP" xl "$@"
}

attach() {
	id=$(xl_ domid "$1") || fail "no domain $1"
	i=0
	until tty=$(xenstore-read "/local/domain/$id/console/tty" 2>/dev/null) && [ -n "$tty" ]; do
		i=$((i + 1))
		[ $i -lt 100 ] || fail "$1: xenconsoled made no pty"
		sleep 0.1
	done
	echo "$id" >"$dir/$1.id"
	setsid labcon serve "$1" "$tty" </dev/null >/dev/null 2>"$dir/$1.err" 3>&- &
	i=0
	until [ -S "$dir/$1.sock" ]; do
		i=$((i + 1))
		[ $i -lt 100 ] || fail "$1: $(cat "$dir/$1.err")"
		sleep 0.05
	done
}

# watch PID FILE: end it when its time is up; FILE tells what its threads were at.
watch() {
	i=0
	while [ $i -lt "$LAB_STEP" ]; do
		sleep 1
		i=$((i + 1))
	done
	for task in "/proc/$1/task"/*; do
		echo "$task"
		cat "$task/stat" "$task/wchan" "$task/syscall" "$task/stack"
	done >"$2" 2>&1
	kill -KILL "$1"
}

create() {
	wait=1 paused=''
	if [ "${1-}" = --no-wait ]; then
		wait=0
		shift
	fi
	[ $# -ge 2 ] || usage
	name=$1 type=$2
	shift 2
	mem=160 vcpus=1 net=$LAB_NET extra='' config=''
	for option; do
		case $option in
		mem=*) mem=${option#*=} ;;
		vcpus=*) vcpus=${option#*=} ;;
		net=*) net=${option#*=} ;;
		extra=*) extra=${option#*=} ;;
		config=*) config="$config${option#*=}
" ;;
		paused=*) paused=${option#*=} ;;
		*) fail "unknown option $option" ;;
		esac
	done
	# The next number, for addresses: 10.77.0.11, 12, ...
	n=$(cat "$dir/count" 2>/dev/null || echo 10)
	n=$((n + 1))
	echo $n >"$dir/count"
	vif=
	if [ "$net" = 1 ]; then
		extra="lab.ip=10.77.0.$n $extra"
		vif="vif = ['mac=00:16:3e:77:00:$(printf %02x $n),bridge=br0']"
		echo "10.77.0.$n $name" >>/etc/hosts
	fi
	case $type in
	pv) tsc= ;;
	pvh) tsc='tsc_mode = "native"' ;;
	*) fail "type is pv or pvh, not $type" ;;
	esac
	cat >"$dir/$name.cfg" <<-END
		name = "$name"
		type = "$type"
		kernel = "/lab/boot/vmlinux"
		ramdisk = "/lab/boot/guest.img"
		extra = "console=hvc0 loglevel=5 clocksource=xen tsc=unstable damon_stat.enabled=N $LAB_GUEST_ARGS lab.name=$name $extra"
		memory = $((mem * LAB_ROOM))
		vcpus = $vcpus
		on_crash = "preserve"
		on_reboot = "destroy"
		$tsc
		$vif
		$config
	END
	echo "$type" >"$dir/$name.type"
	rm -f "$dir/$name.hang"
	xl create ${paused:+-p} -q "$dir/$name.cfg" 3>&- &
	xl=$!
	watch $xl "$dir/$name.hang" >/dev/null 2>&1 3>&- &
	watch=$!
	wait $xl
	status=$?
	kill $watch 2>/dev/null
	wait $watch 2>/dev/null
	if [ -e "$dir/$name.hang" ]; then
		echo "$self: xl create $name hung (no end after $LAB_STEP s)" >&2
		exit 124
	fi
	[ $status -eq 0 ] || fail "xl create $name: status $status"
	attach "$name"
	[ $wait = 0 ] || [ -n "$paused" ] || labcon wait "$name" "$LAB_GUEST_BOOT"
}

# feed NAME COMMAND: our input to a command there.  A console takes 10 kB/s (Xen's
# daemon limits it), so that a guest with a network is fed over that.
feed() {
	if ! grep -q " $1\$" /etc/hosts; then
		labcon run -i "$1" "$2"
		return
	fi
	port=$((20000 + $$ % 40000))
	exec 5<&0 # the shell takes standard input from background commands
	busybox nc -l -p $port <&5 &
	# There, input that never ends: at its end nc would hang up.
	fetch="set -o pipefail; f=/tmp/.feed.\$\$; mkfifo \$f; trap 'rm \$f' EXIT
nc 10.77.0.1 $port <>\$f | { $2; }"
	i=0
	until labcon run "$1" "$fetch"; do
		i=$((i + 1))
		[ $i -lt 3 ] || fail "$1: no connection to Dom0"
	done
	wait $!
}

case $self in
guest)
	exec labcon run "$@"
	;;
guest-put)
	[ $# -eq 3 ] || usage
	if [ -d "$2" ]; then
		tar -C "$2" -cf - . | feed "$1" "mkdir -p '$3' && tar -C '$3' -xf -"
	else
		mode=$(stat -c %a "$2") || exit 125
		feed "$1" "cat >'$3' && chmod $mode '$3'" <"$2"
	fi
	;;
guest-get)
	[ $# -eq 3 ] || usage
	if labcon run "$1" test -d "$2"; then
		mkdir -p "$3" && labcon run "$1" "tar -C '$2' -cf - ." | tar -C "$3" -xf -
	else
		labcon run "$1" cat "$2" >"$3"
	fi
	;;
guest-create)
	create "$@"
	;;
guest-destroy)
	[ $# -eq 1 ] || usage
	xl_ destroy "$1"
	;;
guest-attach)
	[ $# -eq 1 ] || usage
	attach "$1"
	labcon wait "$1" "$LAB_GUEST_BOOT"
	;;
guests)
	for file in "$dir"/*.id; do
		[ -f "$file" ] || continue
		name=${file##*/} name=${name%.id}
		printf '%-12s %4s  %-4s %s\n' "$name" "$(cat "$file")" "$(cat "$dir/$name.type")" \
			"$(labcon status "$name")"
	done
	;;
*)
	fail "call it by one of its names"
	;;
esac
