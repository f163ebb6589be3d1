#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# mgmtctl attach and detach: the xenstore nodes of a channel, who may use them,
# and what is refused.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2
cd "$(dirname "${BASH_SOURCE[0]}")" || exit

ctl() {
	timeout 30 mgmtctl "$@"
}

exists() {
	xenstore-exists "$1"
}

gone() {
	! exists "/local/domain/${DOMID[$1]}/device/mgmt/0" && ! exists "/local/domain/0/backend/mgmt/${DOMID[$1]}/0"
}

# access GUEST DIRECTORY: every node's permissions, each pair once.
access() {
	xenstore-ls -p "$2" | grep -o '([nrwb0-9,]*)$' | sort -u
}

test_attach_makes_the_nodes() {
	ready "$G1"
	equal "frontend's backend" "$(back_path "$G1")" "$(xenstore-read "$(front_path "$G1")/backend")"
	equal "frontend's backend-id" 0 "$(xenstore-read "$(front_path "$G1")/backend-id")"
	equal "backend's frontend" "$(front_path "$G1")" "$(xenstore-read "$(back_path "$G1")/frontend")"
	equal "backend's frontend-id" "${DOMID[$G1]}" "$(xenstore-read "$(back_path "$G1")/frontend-id")"
	equal "backend's online" 1 "$(xenstore-read "$(back_path "$G1")/online")"
}

test_nodes_belong_to_one_side_and_the_other_reads_them() {
	local id=${DOMID[$G1]}
	ready "$G1"
	equal "of the frontend" "(n$id,r0)" "$(access "$G1" "$(front_path "$G1")")"
	equal "of the backend" "(n0,r$id)" "$(access "$G1" "$(back_path "$G1")")"
}

test_attach_twice_is_an_error_unless_if_needed() {
	local before
	ready "$G1"
	before=$(xenstore-ls "$(back_path "$G1")")
	refute "attach again" ctl attach "$G1"
	check "it says so" grep -qi "already" <<<"$(ctl attach "$G1" 2>&1)"
	check "attach --if-needed" ctl attach --if-needed "$G1"
	equal "nodes afterwards" "$before" "$(xenstore-ls "$(back_path "$G1")")"
	check "still connected" connected "$G1"
}

test_attach_of_no_domain_is_an_error() {
	refute "number" ctl attach 30000
	check "it says so" grep -qi "domain" <<<"$(ctl attach 30000 2>&1)"
	refute "name" ctl attach no-such-guest
	refute "Dom0" ctl attach 0
	refute "--if-needed does not hide it" ctl attach --if-needed 30000
	refute "nodes of it" exists /local/domain/0/backend/mgmt/30000
	refute "nodes of the number" exists /local/domain/30000
	refute "nodes of Dom0" exists /local/domain/0/backend/mgmt/0
	refute "no domain given" ctl attach
}

test_detach_removes_the_nodes() {
	ready "$G1"
	check "detach" ctl detach "$G1"
	check "nodes are gone" gone "$G1"
	check "devices are gone in Dom0" within 10 test ! -e "/sys/bus/xen-backend/devices/mgmt-${DOMID[$G1]}-0"
	check "and in the guest" within 20 on "$G1" "test ! -e /sys/bus/xen/devices/mgmt-0"
	refute "parent of the backend's nodes" exists "/local/domain/0/backend/mgmt/${DOMID[$G1]}"
}

test_detach_of_what_is_not_attached_is_an_error_unless_if_needed() {
	ready "$G2"
	check "detach --if-needed" ctl detach --if-needed "$G1"
	check "nodes are gone" gone "$G1"
	refute "detach" ctl detach "$G1"
	check "it says so" grep -qi "not attached" <<<"$(ctl detach "$G1" 2>&1)"
	refute "detach of no domain" ctl detach 30000
	check "the other guest stays connected" connected "$G2"
}

test_attach_repairs_half_of_the_nodes() {
	local half
	ctl detach --if-needed "$G1"
	for half in "$(back_path "$G1")" "$(front_path "$G1")"; do
		ctl attach "$G1" || die "attach"
		wait_connected "$G1" || die "it does not connect"
		# What is left when somebody was killed in the middle.
		xenstore-rm "$half"
		check "attach over the other half of $half" ctl attach "$G1"
		check "connects" wait_connected "$G1"
		check "round trip" round_trip "$G1" 1
		ctl detach "$G1"
	done
}

test_names_and_numbers_and_several_at_once() {
	ctl detach --if-needed "$G1" "$G2"
	check "attach two, one by number" ctl attach "${DOMID[$G1]}" "$G2"
	check "first connects" wait_connected "$G1"
	check "second connects" wait_connected "$G2"
	check "detach both" ctl detach "$G1" "${DOMID[$G2]}"
	check "first is gone" gone "$G1"
	check "second is gone" gone "$G2"
}

# xs GUEST read|write PATH [VALUE]: in the name of that guest.
xs() {
	python3 xs.py "$@"
}

test_another_guest_cannot_touch_the_nodes() {
	local front back
	ready "$G1"
	front=$(front_path "$G1")
	back=$(back_path "$G1")
	equal "$G2 reads the frontend's state" EACCES "$(xs "$G2" read "$front/state")"
	equal "$G2 reads the backend's state" EACCES "$(xs "$G2" read "$back/state")"
	equal "$G2 writes the frontend's state" EACCES "$(xs "$G2" write "$front/state" 6)"
	equal "$G2 writes the backend's state" EACCES "$(xs "$G2" write "$back/state" 6)"
	equal "$G1 writes its backend's state" EACCES "$(xs "$G1" write "$back/state" 6)"
	equal "$G1 reads its backend's state" "OK 4" "$(xs "$G1" read "$back/state")"
	check "still connected" connected "$G1"
}

test_ready_again() {
	ready
}

ktap_main "$@"
