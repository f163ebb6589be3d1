#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A guest is destroyed while messages run in both directions: Dom0 takes it
# calmly, everything of the guest goes, and the others do not notice.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2

VICTIM=victim
WORK=$(mktemp -d) || exit 1
trap 'rm -rf "$WORK"' EXIT

create() {
	timeout 200 guest-create "$VICTIM" "$1" mem=160 >"$WORK/create" 2>&1 || {
		cat "$WORK/create"
		die "guest-create"
	}
	DOMID[$VICTIM]=$(timeout 30 xl domid "$VICTIM") || die "no domain id"
}

destroy() {
	timeout 60 guest-destroy "$VICTIM"
}

# gone ID: nothing of that domain is left but the nodes.
device_gone() {
	[[ ! -e /sys/bus/xen-backend/devices/mgmt-$1-0 ]]
}

# under_traffic TYPE
under_traffic() {
	local before id other victim busy there pid status
	ready
	before=$(held)
	create "$1"
	on_exit "xl destroy $VICTIM 2>/dev/null"
	id=${DOMID[$VICTIM]}
	ready "$VICTIM"

	# Another guest's messages, which must all arrive.
	guest -T $((200 * PATIENCE)) "$G1" "mgmt-test --timeout $((190 * PATIENCE)) duplex --app Bystander --to Bystander@mvm --count 4000" \
		>"$WORK/there" 2>&1 &
	there=$!
	timeout $((200 * PATIENCE)) mgmt-test --timeout $((190 * PATIENCE)) duplex --app Bystander --to "Bystander@vm:${DOMID[$G1]}" --count 4000 \
		>"$WORK/other" 2>&1 &
	other=$!
	# The victim's, with Dom0 both ways, and to another guest.
	guest -T $((260 * PATIENCE)) "$VICTIM" "mgmt-test --timeout $((250 * PATIENCE)) duplex --app Doomed --to Doomed@mvm --count 10000000" \
		>"$WORK/busy" 2>&1 &
	busy=$!
	timeout $((260 * PATIENCE)) mgmt-test --timeout $((250 * PATIENCE)) duplex --app Doomed --to "Doomed@vm:$id" --count 10000000 \
		>"$WORK/victim" 2>&1 &
	victim=$!
	guest -T $((260 * PATIENCE)) "$G2" "mgmt-test --timeout $((250 * PATIENCE)) echo Neighbour" >/dev/null 2>&1 &
	pid=$!
	guest -T $((260 * PATIENCE)) "$VICTIM" "mgmt-test --timeout $((250 * PATIENCE)) flood --app Flood --to Neighbour@vm:${DOMID[$G2]} --count 10000000 --wait 20" \
		>/dev/null 2>&1 &
	check "the victim's messages run" within 40 eval "((\$(counter $VICTIM rx_messages) > 1000))"
	check "and Dom0's to it" within 20 eval "((\$(counter $VICTIM tx_messages) > 300))"

	check "destroy" destroy
	check "the backend's device goes" within 20 device_gone "$id"
	status=0
	wait "$victim" || status=$?
	# Its last write was refused; it has not hung until its time was up.
	equal "Dom0's sender ($(tail -n 1 "$WORK/victim"))" 1 "$status"
	check "it was told why: $(tail -n 1 "$WORK/victim")" \
		grep -qiE "unreachable|no such|no route|refused|not there|gone" "$WORK/victim"
	wait "$busy"

	check "detach" timeout 30 mgmtctl detach --if-needed "$id"
	refute "nodes of the backend" xenstore-exists "/local/domain/0/backend/mgmt/$id"
	refute "nodes of the guest" xenstore-exists "/local/domain/$id"
	refute "a link to it" eval "mgmtctl status | grep -q '^$id '"

	for status in "$other" "$there"; do
		wait "$status" || fail "the bystander's status is $?"
	done
	tail -n 1 "$WORK/other" "$WORK/there"
	check "bystander in Dom0" grep -q '"received":4000,"lost":0,"late":0,"damaged":0' "$WORK/other"
	check "bystander in $G1" grep -q '"received":4000,"lost":0,"late":0,"damaged":0' "$WORK/there"
	check "$G2 still talks" round_trip "$G2" 2
	kill "$pid" 2>/dev/null
	# shellcheck disable=SC2016
	check "Dom0 holds what it held before ($before)" within 15 eval '[[ $(held) == "'"$before"'" ]]'
	held
	refute "complaints in Dom0" eval "dmesg | grep -E '$TROUBLE'"
}

test_PV_guest_destroyed_under_traffic() {
	under_traffic pv
}

test_PVH_guest_destroyed_under_traffic() {
	under_traffic pvh
}

# The nodes are all that is left then, and attach, detach or the next guest find them.
test_guest_destroyed_before_its_module_was_loaded() {
	local before id
	ready
	before=$(held)
	create pv
	on_exit "xl destroy $VICTIM 2>/dev/null"
	id=${DOMID[$VICTIM]}
	check "attach" timeout 30 mgmtctl attach "$VICTIM"
	check "the backend waits" within 10 test -e "/sys/bus/xen-backend/devices/mgmt-$id-0"
	check "destroy" destroy
	check "the backend's device goes" within 20 device_gone "$id"
	check "detach" timeout 30 mgmtctl detach --if-needed "$id"
	refute "nodes of the backend" xenstore-exists "/local/domain/0/backend/mgmt/$id"
	equal "Dom0 holds" "$before" "$(held)"
}

ktap_main "$@"
