#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A channel comes up, and comes back by itself, whatever either side does and in
# whatever order. Each time a round trip of messages must pass.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2

# up TEXT [GUEST]: connected, and messages pass.
up() {
	check "$1: connects" wait_connected "${2:-$G1}" || return
	check "$1: round trip" round_trip "${2:-$G1}" 2
}

down() {
	timeout 30 mgmtctl detach --if-needed "$G1" || die "detach"
}

attach() {
	timeout 30 mgmtctl attach "$G1" || die "attach"
}

# In this order.
loads() {
	{ load "$1" && load "$2"; } || die "load $*"
}

unloads() {
	{ unload "$1" && unload "$2"; } || die "unload $*"
}

# The frontend's registration waits up to 30 s for a backend: insmod goes on
# alone, and the case with it once the driver is there.
load_front_first() {
	on "$G1" "insmod /lab/mgmt.ko" &
	FRONT=$!
	check "the frontend's driver is there" within 20 on "$G1" "test -d /sys/bus/xen/drivers/mgmtfront"
	load dom0 || die "load dom0"
	# Here, since only the shell that started it can wait for it.
	wait "$FRONT"
	equal "insmod in the guest: its status" 0 $?
}

backend_waits() {
	[[ $(states "$G1") == "1 2" ]]
}

backend_left() {
	[[ $(states "$G1") != *" 4" ]]
}

# Whether the bridge in Dom0 has a link to it, and calls it connected.
link_up() {
	[[ $(counter "$1" id) == "${DOMID[$1]}" && $(counter "$1" state) == 2 ]]
}

test_attach_with_both_modules_loaded() {
	loads dom0 "$G1"
	down
	attach
	up "attached"
	check "the link in Dom0" link_up "$G1"
	check "the guest says so, too" on "$G1" "mgmtctl status | grep -q '^uplink.*connected'"
}

test_attach_before_either_module_is_loaded_front_first() {
	down
	unloads dom0 "$G1"
	attach
	equal "states without drivers" "1 1" "$(states "$G1")"
	load_front_first
	up "front first"
}

test_attach_before_either_module_is_loaded_back_first() {
	down
	unloads dom0 "$G1"
	attach
	load dom0 || die "load"
	check "the backend waits" within 10 backend_waits
	load "$G1" || die "load"
	up "back first"
}

test_attach_while_the_guest_has_no_module() {
	down
	load dom0 || die "load"
	unload "$G1" || die "unload"
	attach
	check "the backend waits" within 10 backend_waits
	load "$G1" || die "load"
	up "loaded later"
}

test_back_goes_and_comes() {
	local i
	ready
	for i in 1 2; do
		check "rmmod in Dom0" unload dom0
		check "the guest notices" within 15 on "$G1" "mgmtctl status | grep -q '^uplink *no$\\|^uplink.*not'"
		check "insmod in Dom0" load dom0
		up "time $i"
		up "time $i, the other guest" "$G2"
	done
}

test_front_goes_and_comes() {
	local i
	ready
	for i in 1 2; do
		check "rmmod in the guest" unload "$G1"
		check "the backend is not connected" within 15 backend_left
		check "insmod in the guest" load "$G1"
		up "time $i"
	done
	check "the other guest was not disturbed" round_trip "$G2" 1
}

test_both_go_front_first_and_come_front_first() {
	ready
	unloads "$G1" dom0
	load_front_first
	up "both"
}

test_both_go_front_first_and_come_back_first() {
	ready
	unloads "$G1" dom0
	loads dom0 "$G1"
	up "both"
}

test_both_go_back_first_and_come_front_first() {
	ready
	unloads dom0 "$G1"
	load_front_first
	up "both"
}

test_both_go_back_first_and_come_back_first() {
	ready
	unloads dom0 "$G1"
	loads dom0 "$G1"
	up "both"
}

test_both_at_the_same_time() {
	local i there
	ready
	for i in 1 2 3; do
		on "$G1" "rmmod mgmt && insmod /lab/mgmt.ko" &
		there=$!
		check "rmmod in Dom0" unload dom0
		check "insmod in Dom0" load dom0
		wait "$there"
		equal "rmmod and insmod in the guest: their status" 0 $?
		up "time $i"
	done
}

test_frontend_unbound_and_bound_by_sysfs() {
	ready
	check "unbind" on "$G1" "echo mgmt-0 >/sys/bus/xen/drivers/mgmtfront/unbind"
	check "the backend is not connected" within 15 backend_left
	refute "the link in Dom0" link_up "$G1"
	check "bind" on "$G1" "echo mgmt-0 >/sys/bus/xen/drivers/mgmtfront/bind"
	up "bound again"
}

test_backend_unbound_and_bound_by_sysfs() {
	local dev="mgmt-${DOMID[$G1]}-0" driver=/sys/bus/xen-backend/drivers/mgmtback
	ready
	check "unbind" eval "echo $dev >$driver/unbind"
	sleep 1
	check "bind" eval "echo $dev >$driver/bind"
	up "bound again"
	check "the other guest was not disturbed" round_trip "$G2" 1
}

test_detach_and_attach_three_times() {
	local i
	ready
	for i in 1 2 3; do
		check "detach" timeout 30 mgmtctl detach "$G1"
		equal "states when detached" "- -" "$(states "$G1")"
		attach
		up "time $i"
	done
}

test_every_incarnation_has_an_epoch_of_its_own() {
	local before after
	ready
	before=$(counter "$G1" epoch)
	on "$G1" "echo mgmt-0 >/sys/bus/xen/drivers/mgmtfront/unbind && echo mgmt-0 >/sys/bus/xen/drivers/mgmtfront/bind"
	up "bound again"
	after=$(counter "$G1" epoch)
	check "epoch $after is not after $before" test "$after" -gt "$before"
	equal "node" "$after" "$(xenstore-read "$(back_path "$G1")/epoch")"
}

ktap_main "$@"
