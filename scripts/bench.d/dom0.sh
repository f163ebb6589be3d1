#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The benchmark's part in Dom0 of the lab; scripts/bench calls it. Measures with
# one guest after the other. Arguments: ROUNDS TRIPS MESSAGES.
set -euo pipefail

rounds=$1 trips=$2 messages=$3

# prepare GUEST: module and servers there, and their channels connected.
prepare() {
	guest -T 60 "$1" "insmod /lab/mgmt.ko && modprobe xen-evtchn && modprobe xen-gntalloc &&
		for t in m-channel libvchan tcp event; do
			setsid mgmt-bench serve \$t >/tmp/\$t 2>&1 </dev/null &
		done
		setsid mgmt-test --timeout 3600 echo BenchEcho >/tmp/library 2>&1 </dev/null &
		cd /tmp
		i=0
		until [ \$(cat m-channel libvchan tcp event library | grep -c ready) = 5 ]; do
			i=\$((i + 1))
			[ \$i -lt 300 ] || { cat m-channel libvchan tcp event library; exit 1; }
			usleep 100000
		done"
	mgmtctl attach "$1"
	mgmt-test pingpong --app BenchLibrary --to "BenchEcho@vm:$(xl domid "$1")" --count 1 >/dev/null
}

# number NAME JSON: a member of a flat object.
number() {
	sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" <<<"$2"
}

# library GUEST ROUND: the same over the Rust library, with checked content.
library() {
	local trip sink log
	trip=$(mgmt-test pingpong --app BenchLibrary --to "BenchEcho@vm:$(xl domid "$1")" --count "$trips")
	log=$(mktemp)
	mgmt-test sink BenchSink --count "$messages" --linger 0 >"$log" &
	guest -T 120 "$1" mgmt-test flood --to BenchSink@mvm --count "$messages" >/dev/null
	wait $!
	sink=$(tail -n 1 "$log")
	rm "$log"
	printf '%s,library,%d,%s,%s,%s,%s,\n' "$1" "$2" "$(number min_ns "$trip")" \
		"$(number p50_ns "$trip")" "$(number p99_ns "$trip")" "$(number per_second "$sink")"
}

insmod /lab/mgmt.ko
out=$LAB_OUT/rounds.csv
echo guest,contender,round,trip_min_ns,trip_p50_ns,trip_p99_ns,from_guest_per_s,to_guest_per_s >"$out"
for name in $LAB_GUESTS; do
	prepare "$name"
	address=$(awk -v name="$name" '$2 == name { print $1 }' /etc/hosts)
	mgmt-bench client "$name" "$(xl domid "$name")" "$address" "$rounds" "$trips" "$messages" |
		tee -a "$out"
	for ((round = 1; round <= rounds; round++)); do
		library "$name" "$round" | tee -a "$out"
	done
	# Its servers' memory and CPU time are the next one's.
	guest -T 30 "$name" 'killall mgmt-bench mgmt-test' || :
done
