#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Many messages: all arrive, in order, none twice, undamaged. mgmt-test numbers
# and checksums them, and counts.
#
# MGMT_STREAM: messages each way in the long runs (30000; stream_long.sh sends 100000).

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2

COUNT=${MGMT_STREAM:-30000}
TIME=420

# of_report FILE KEY
of_report() {
	sed -n "s/.*\"$2\":\\([0-9]*\\).*/\\1/p" "$1"
}

# perfect TEXT FILE STATUS COUNT: what one side's duplex or sink reported.
perfect() {
	local key
	equal "$1: status ($(tail -n 1 "$2"))" 0 "$3"
	equal "$1: received" "$4" "$(of_report "$2" received)"
	for key in lost late damaged; do
		equal "$1: $key" 0 "$(of_report "$2" "$key")"
	done
	tail -n 1 "$2"
}

# duplex SIDE ADDRESS SIDE ADDRESS COUNT SIZE: both send and receive at once.
duplex() {
	local a b first second app=Duplex$RANDOM
	a=$(mktemp) b=$(mktemp)
	run_on "$1" "mgmt-test --timeout $TIME duplex --app $app --to $app@$4 --count $5 --size $6" >"$a" 2>&1 &
	first=$!
	run_on "$3" "mgmt-test --timeout $TIME duplex --app $app --to $app@$2 --count $5 --size $6" >"$b" 2>&1 &
	second=$!
	wait "$first"
	perfect "$1" "$a" $? "$5"
	wait "$second"
	perfect "$3" "$b" $? "$5"
	rm -f "$a" "$b"
}

run_on() {
	if [[ $1 == dom0 ]]; then
		timeout $((TIME + 20)) bash -c "$2"
	else
		guest -T $((TIME + 20)) "$1" "$2"
	fi
}

test_64_bytes_both_ways_between_guest_and_Dom_M() {
	local before
	ready
	before=$(counter "$G2" rx_messages)
	duplex dom0 vm:0 "$G2" "vm:${DOMID[$G2]}" "$COUNT" 64
	# By the rings, and not by any other way.
	check "messages over the channel" test $(($(counter "$G2" rx_messages) - before)) -ge "$COUNT"
}

test_64_bytes_both_ways_between_guests() {
	local before
	ready
	before=$(counter "$G1" tx_messages)
	duplex "$G1" "vm:${DOMID[$G1]}" "$G2" "vm:${DOMID[$G2]}" "$COUNT" 64
	check "messages through the bridge" test $(($(counter "$G1" tx_messages) - before)) -ge "$COUNT"
}

test_8_KiB_both_ways_between_guest_and_Dom_M() {
	ready "$G1"
	duplex dom0 vm:0 "$G1" "vm:${DOMID[$G1]}" $((COUNT / 50)) 8192
}

test_8_KiB_both_ways_between_guests() {
	ready
	duplex "$G1" "vm:${DOMID[$G1]}" "$G2" "vm:${DOMID[$G2]}" $((COUNT / 100)) 8192
}

# Several senders, each with a size of its own, to one receiver.
mixed() {
	local sink sinkpid pids=() size side i=0 app=Mixed$RANDOM each=$((COUNT / 100)) status
	sink=$(mktemp)
	run_on "$1" "mgmt-test --timeout 120 sink $app --count $((each * 5))" >"$sink" 2>&1 &
	sinkpid=$!
	for size in 32 33 500 4096 8192; do
		side=$3
		((i % 2)) || side=$4
		run_on "$side" "mgmt-test --timeout 120 flood --app ${app}x$i --to $app@$2 --count $each --size $size" \
			>"$sink.$i" 2>&1 &
		pids+=($!)
		i=$((i + 1))
	done
	wait "$sinkpid"
	perfect "sink in $1" "$sink" $? $((each * 5))
	for i in 0 1 2 3 4; do
		status=0
		wait "${pids[i]}" || status=$?
		equal "sender $i ($(tail -n 1 "$sink.$i"))" 0 "$status"
	done
	rm -f "$sink" "$sink".*
}

test_mixed_sizes_of_two_guests_to_Dom_M() {
	ready
	mixed dom0 mvm "$G1" "$G2"
}

test_mixed_sizes_of_Dom_M_and_a_guest_to_a_guest() {
	ready
	mixed "$G1" "vm:${DOMID[$G1]}" dom0 "$G2"
}

# bundled SIDE ADDRESS SENDER COUNTER: many messages behind each header, received one by one.
# COUNTER is what Dom0 counts of that direction.
bundled() {
	local report status=0 before count=20000
	report=$(mktemp)
	before=$(counter "$G1" "$4")
	run_on "$1" "mgmt-test --timeout $TIME sink Bundles --count $count --linger 100" >"$report" 2>&1 &
	check "flood of $3" run_on "$3" "mgmt-test --timeout $TIME flood --to Bundles@$2 --count $count --bundle"
	wait $! || status=$?
	perfect "$1" "$report" "$status" "$count"
	check "they were few messages on the way" \
		eval "(($(counter "$G1" "$4") - before < count / 20))"
	rm -f "$report"
}

test_bundles_both_ways_between_guest_and_Dom_M() {
	ready
	bundled dom0 mvm "$G1" rx_messages
	bundled "$G1" "vm:${DOMID[$G1]}" dom0 tx_messages
}

ktap_main "$@"
