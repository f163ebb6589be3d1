#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a debug kernel has noted, beyond what it wrote to its log: make test-debug.
# Run after the others.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2

KMEMLEAK=/sys/kernel/debug/kmemleak
# Dom0's is none.
on "$G1" "test -e $KMEMLEAK" || skip "no debug kernel in the guests"

test_the_module_is_instrumented() {
	check "for KASAN" on "$G1" "grep -q __asan_load /lab/mgmt.ko"
}

test_lockdep_has_had_no_reason_to_stop() {
	local name
	for name in "${GUESTS[@]}"; do
		check "$name" on "$name" "grep -q 'debug_locks: *1$' /proc/lockdep_stats"
		ktap_note "$name: $(on "$name" "grep 'lock-classes:' /proc/lockdep_stats")"
		check "$name knows the module's locks" on "$name" "grep -q mgmt_ /proc/lockdep"
	done
}

test_no_memory_is_leaked() {
	local name found
	for name in "${GUESTS[@]}"; do
		# What is younger than 5 s is not looked at; a leak is what two scans miss.
		found=$(on "$name" "sleep 6; for i in 1 2; do echo scan >$KMEMLEAK || exit; done; cat $KMEMLEAK") ||
			fail "$name: no scan: $found"
		[[ -z $found ]] || ktap_note "$name:" "$found"
		refute "$name: a leak of the module" grep -F '[mgmt' <<<"$found"
	done
}

ktap_main "$@"
