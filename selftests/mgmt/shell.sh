#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# /dev/mgmt is of use from a plain shell: the example of docs/uapi.md, here and
# in a guest.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2
(ktap_case ready) || exit

# The four lines of docs/uapi.md.
example="
	exec 3<>/dev/mgmt
	printf 'bind Power\n' >&3
	dd bs=2M count=1 <&3 2>/dev/null | tail -c +193    # one message's payload
"

# send_to COMPONENT TEXT: until Power is bound there.
send_to() {
	within 20 timeout 10 mgmtctl send "Power@$1" "$2"
}

test_example_in_Dom0() {
	local out
	out=$(mktemp)
	timeout 40 bash -c "$example" >"$out" 2>&1 &
	check "send" send_to self "hello, shell"
	wait $! || fail "the example's status is $?"
	equal "payload" "hello, shell" "$(cat "$out")"
	rm -f "$out"
}

test_example_in_guests() {
	local out name
	out=$(mktemp)
	for name in "$G1" "$G2"; do
		guest -T 40 "$name" "$example" >"$out" 2>&1 &
		check "send to $name" send_to "vm:${DOMID[$name]}" "hello, $name"
		wait $! || fail "the example's status in $name is $?"
		equal "payload in $name" "hello, $name" "$(cat "$out")"
	done
	rm -f "$out"
}

test_errors_reach_the_shell() {
	local text
	text=$(exec 3<>/dev/mgmt && { printf 'bind a/b\n' >&3; } 2>&1)
	check "malformed name: $text" grep -q "Invalid argument" <<<"$text"
	text=$(exec 3<>/dev/mgmt && { printf 'hello\n' >&3; } 2>&1)
	check "unbound: $text" grep -q "bad state" <<<"$text"
	text=$(exec 3<>/dev/mgmt 4<>/dev/mgmt && printf 'bind Twice\n' >&3 && { printf 'bind Twice\n' >&4; } 2>&1)
	check "taken name: $text" grep -q "already in use" <<<"$text"
}

# dd's blocks are read()s: a small one does not take the message apart.
test_small_dd_leaves_the_message() {
	local out
	out=$(timeout 20 bash -c '
		exec 3<>/dev/mgmt
		printf "bind SmallDd\n" >&3
		mgmtctl send SmallDd@self whole
		dd bs=100 count=1 <&3 2>&1 >/dev/null | grep -o "Message too long"
		dd bs=2M count=1 <&3 2>/dev/null | tail -c +193')
	equal "dd's error, then the payload" "Message too long
whole" "$out"
}

ktap_main "$@"
