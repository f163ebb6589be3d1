#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Whatever the other tests did, no kernel complained. Run last.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2

complaints() {
	on "$1" dmesg | grep -E -A 12 "$TROUBLE"
}

test_the_search_finds_what_it_looks_for() {
	local line
	for line in 'WARNING: CPU: 0 PID: 1 at x' 'BUG: unable to handle page fault' 'Oops: 0000 [#1]' \
		'refcount_t: underflow; use-after-free' 'INFO: task x:1 blocked for more than 120 seconds' \
		'rcu: INFO: rcu_preempt self-detected stall on CPU' 'kernel BUG: y'; do
		check "$line" grep -qE "$TROUBLE" <<<"$line"
	done
	# The log goes back to the beginning, in part.
	check "Dom0's log" eval 'on dom0 dmesg | grep -q mgmt'
}

test_no_complaints_in_Dom0() {
	refute "the log of Dom0" complaints dom0
}

test_no_complaints_in_guests() {
	local name
	for name in "${GUESTS[@]}"; do
		refute "the log of $name" complaints "$name"
	done
}

test_no_complaints_of_Xen() {
	refute "Xen's log" eval "timeout 30 xl dmesg | grep -aE 'Xen BUG|Xen WARN|Assertion .* failed|domain_crash|Domain [0-9]+ .*crashed'"
}

test_nothing_hangs() {
	local stuck name
	for name in dom0 "${GUESTS[@]}"; do
		# Twice, two seconds apart: a moment in D is no hang.
		# shellcheck disable=SC2016
		stuck='for i in 1 2; do
			for s in /proc/[0-9]*/stat; do
				read -r pid rest <$s 2>/dev/null || continue
				case ${rest##*) } in D*) grep -l mgmt /proc/$pid/stack 2>/dev/null ;; esac
			done
			sleep 2
		done | sort | uniq -d'
		equal "processes stuck in the module in $name" "" "$(on "$name" "$stuck" 2>/dev/null)"
	done
}

ktap_main "$@"
