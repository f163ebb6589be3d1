#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The module loads and unloads, in Dom0 and in guests, and /dev/mgmt with it.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2

# One trip into the domain; every line that it prints is something wrong.
three_times() {
	local ko=/lab/mgmt.ko wrong
	[[ $1 != dom0 ]] || ko=$MGMT_KO
	check "$1: unload" unload "$1"
	wrong=$(on "$1" "
		no_device() {
			[ ! -e /dev/mgmt ] || echo \"/dev/mgmt \$1\"
			grep -q ' mgmt\$' /proc/misc && echo \"in /proc/misc \$1\"
			grep -q '^mgmt ' /proc/modules && echo \"in /proc/modules \$1\"
		}
		for i in 1 2 3; do
			no_device \"before insmod \$i\"
			insmod $ko || echo \"insmod \$i: status \$?\"
			is=\$(stat -c '%a %F %u' /dev/mgmt)
			[ \"\$is\" = '600 character special file 0' ] || echo \"/dev/mgmt after insmod \$i: \$is\"
			(exec 3<>/dev/mgmt) || echo \"open after insmod \$i\"
			rmmod mgmt || echo \"rmmod \$i: status \$?\"
			no_device \"after rmmod \$i\"
		done 2>&1
		echo end")
	equal "$1: what went wrong" end "$wrong"
}

# An open file keeps the module; closing it is enough.
open_file() {
	check "$1: load" load "$1"
	# shellcheck disable=SC2016
	check "$1: rmmod with an open file" on "$1" '
		exec 3<>/dev/mgmt
		if e=$(rmmod mgmt 2>&1); then echo "rmmod succeeded"; exit 1; fi
		case $e in *"in use"*|*"temporarily unavailable"*|*busy*) ;; *) echo "rmmod says: $e"; exit 1 ;; esac
		grep -q "^mgmt " /proc/modules || { echo "the module is gone"; exit 1; }
		printf "bind StillHere\n" >&3 || { echo "the open file is dead"; exit 1; }
		exec 3>&-
		rmmod mgmt'
	check "$1: not loaded" eval "! loaded $1"
}

test_insmod_and_rmmod_three_times_in_Dom0() {
	three_times dom0
}

test_insmod_and_rmmod_three_times_in_guests() {
	local name
	for name in "$G1" "$G2"; do
		three_times "$name"
	done
}

test_open_file_keeps_the_module() {
	local name
	for name in dom0 "$G1" "$G2"; do
		open_file "$name"
	done
}

test_insmod_twice_is_refused() {
	check "load" load dom0
	refute "insmod of the loaded module" insmod "$MGMT_KO"
	check "still loaded" loaded dom0
	check "/dev/mgmt still there" test -c /dev/mgmt
}

test_module_tells_what_it_drives() {
	check "alias of the frontend" grep -aq 'alias=xen:mgmt' "$MGMT_KO"
	check "alias of the backend" grep -aq 'alias=xen-backend:mgmt' "$MGMT_KO"
	check "licence" grep -aq 'license=GPL' "$MGMT_KO"
}

# Without nodes in xenstore the drivers have nothing to bind to, and load all the same.
test_drivers_are_registered() {
	load dom0
	load "$G1"
	check "mgmtback in Dom0" test -d /sys/bus/xen-backend/drivers/mgmtback
	check "mgmtfront in a guest" on "$G1" "test -d /sys/bus/xen/drivers/mgmtfront"
	unload dom0
	refute "mgmtback after rmmod" test -d /sys/bus/xen-backend/drivers/mgmtback
	load dom0
}

ktap_main "$@"
