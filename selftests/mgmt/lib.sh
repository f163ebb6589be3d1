# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# What the tests in bash share: the module, the guests, and their channels.

# shellcheck source=selftests/kselftest/ktap_helpers.sh
source "$(dirname "${BASH_SOURCE[0]}")/../kselftest/ktap_helpers.sh"

PATH=/lab/bin:/usr/lib/xen-4.20/bin:$PATH
MGMT_KO=${MGMT_KO:-/lab/mgmt.ko}
PATIENCE=${LAB_PATIENCE:-1}
read -r -a GUESTS <<<"${LAB_GUESTS-}"
declare -A DOMID

# need_lab [COUNT]: skips unless this is Dom0, with so many guests (2). Who knows their domains' numbers
# says so in LAB_DOMIDS: xl takes its time.
need_lab() {
	local name numbers
	read -r -a numbers <<<"${LAB_DOMIDS-}"
	grep -qs control_d /proc/xen/capabilities || skip "not Xen's Dom0"
	[[ $(id -u) == 0 ]] || skip "not root"
	command -v guest >/dev/null || skip "no guest command: not in the lab"
	((${#GUESTS[@]} >= ${1:-2})) || skip "fewer than ${1:-2} guests in LAB_GUESTS"
	for name in "${GUESTS[@]}"; do
		DOMID[$name]=${numbers[${#DOMID[@]}]-}
		[[ ${DOMID[$name]} ]] || DOMID[$name]=$(timeout $((30 * PATIENCE)) xl domid "$name") || skip "no domain $name"
	done
	G1=${GUESTS[0]}
	G2=${GUESTS[1]}
}

# on DOMAIN COMMAND: runs it with the shell of dom0, or of a guest.
on() {
	if [[ $1 == dom0 ]]; then
		timeout -k 5 $((60 * PATIENCE)) bash -c "$2"
	else
		guest -T $((60 * PATIENCE)) "$1" "$2"
	fi
}

loaded() {
	on "$1" "grep -q '^mgmt ' /proc/modules"
}

load() {
	local ko=/lab/mgmt.ko
	[[ $1 != dom0 ]] || ko=$MGMT_KO
	on "$1" "grep -q '^mgmt ' /proc/modules || insmod $ko"
}

unload() {
	on "$1" "! grep -q '^mgmt ' /proc/modules || rmmod mgmt"
}

front_path() {
	echo "/local/domain/${DOMID[$1]}/device/mgmt/0"
}

back_path() {
	echo "/local/domain/0/backend/mgmt/${DOMID[$1]}/0"
}

# states GUEST: frontend's and backend's xenbus states, as "4 4"; - if there is none.
states() {
	local front back
	front=$(xenstore-read "$(front_path "$1")/state" 2>/dev/null) || front=-
	back=$(xenstore-read "$(back_path "$1")/state" 2>/dev/null) || back=-
	echo "${front:--} ${back:--}"
}

connected() {
	[[ $(states "$1") == "4 4" ]]
}

# wait_connected GUEST [SECONDS]
wait_connected() {
	within "${2:-20}" connected "$1" && return 0
	echo "$1: frontend and backend are in states $(states "$1")"
	xenstore-ls "$(front_path "$1")"
	xenstore-ls "$(back_path "$1")"
	xenstore-ls "/local/domain/${DOMID[$1]}/error" 2>/dev/null
	xenstore-ls "/local/domain/0/error" 2>/dev/null
	return 1
}

# open_rules: anybody may talk to anybody.
open_rules() {
	local rules
	rules=$(mgmtctl policy show | sed -n 's/^ *[0-9]*  line [0-9]*: //p')
	# What they are is known sooner than Python has started.
	[[ $rules == 'allow * -> *' ]] || python3 "$(dirname "${BASH_SOURCE[0]}")/mgmt.py" open
}

# ready [GUEST...]: module loaded, attached, connected, and anybody may talk to
# anybody; ends the case otherwise.
ready() {
	local name
	(($#)) || set -- "${GUESTS[@]}"
	load dom0 || die "cannot load the module in Dom0"
	open_rules || die "cannot load the rules"
	for name; do
		load "$name" || die "cannot load the module in $name"
		timeout $((30 * PATIENCE)) mgmtctl attach --if-needed "$name" || die "cannot attach $name"
	done
	for name; do
		wait_connected "$name" || die "$name does not connect"
	done
}

# round_trip GUEST [COUNT]: requests from Dom0, and replies of a program there.
round_trip() {
	local app=Rt$RANDOM count=${2:-3} status=0 log
	log=$(mktemp)
	guest -T 40 "$1" "mgmt-test --timeout $((30 * PATIENCE)) echo $app --count $count" >"$log" 2>&1 &
	timeout 45 mgmt-test --timeout $((30 * PATIENCE)) pingpong --to "$app@vm:${DOMID[$1]}" --app "Ping$app" \
		--count "$count" --wait $((20 * PATIENCE)) || status=$?
	wait $! || status=$?
	((status == 0)) || cat "$log"
	rm -f "$log"
	return "$status"
}

# counter GUEST FIELD: of MGMT_IOC_LINK.
counter() {
	python3 "$(dirname "${BASH_SOURCE[0]}")/mgmt.py" counter "${DOMID[$1]}" "$2"
}

# What Dom0 holds for all guests together.
held() {
	echo "mappings $(grep -c xenbus_map_ring /proc/vmallocinfo)" \
		"interrupts $(grep -c mgmtback /proc/interrupts)" \
		"event channels $(lsevtchn 0 | wc -l)" \
		"links $(mgmtctl status | sed -n 's/^guests *//p')"
}

# Entries of every domain's grant table, as Xen has them: "1 20".
grants() {
	local i
	for i in 1 2 3; do
		timeout $((30 * PATIENCE)) xl debug-keys g
		sleep 1
		# The last dump that is whole.
		timeout $((30 * PATIENCE)) xl dmesg | tr -d '\r' | awk '
			/gnttab_usage_print_all \[/ { on = 1; delete n; next }
			/gnttab_usage_print_all \] done/ { on = 0; whole = 1; delete last; for (d in n) last[d] = n[d]; next }
			on && /grant-table for remote d/ { d = $0; sub(/.* d/, "", d); sub(/ .*/, "", d); n[d] += 0 }
			on && /\[0x[0-9a-f]+\] / { n[d]++ }
			END { if (!whole) exit 1; for (d in last) print d, last[d] }' | sort -n && return
	done
	echo "Xen says nothing"
}

# Lines of a kernel log that nothing may cause.
TROUBLE='BUG: |Oops|Kernel panic|WARNING: |general protection fault|blocked for more than|self-detected stall|rcu: INFO: .*stall|rcu: .*starved|unable to handle|refcount_t: |list_(add|del) corruption|Objects remaining|Poison overwritten|Bad page state|possible recursive locking'
