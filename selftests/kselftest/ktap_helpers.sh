# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# KTAP for test programs written in bash. A program sources this, defines
# functions test_*, and calls ktap_main: each function is one case, run in a
# subshell, in the order of the file.
#
# In a case:
#   check TEXT COMMAND...    fails the case, and goes on, unless COMMAND succeeds
#   refute TEXT COMMAND...   ... if it succeeds
#   equal TEXT WANT GOT      ... unless the two are the same
#   at_most TEXT LIMIT N     ... if the number N is larger
#   within SECONDS COMMAND   tries until it succeeds; for what takes a moment
#   fail TEXT                fails the case and goes on
#   die TEXT                 fails the case and ends it
#   skip TEXT                ends the case, or the program before ktap_main
#   on_exit COMMAND          runs it at the end of the case
#
# Whatever a case prints appears as a diagnostic.

KSFT_PASS=0
KSFT_FAIL=1
KSFT_SKIP=4

ktap_failed=0
ktap_at_exit=()

ktap_note() {
	printf '%s\n' "$*"
}

# The line of the test that called, whatever functions are in between.
ktap_where() {
	local i
	for ((i = 1; i < ${#FUNCNAME[@]}; i++)); do
		if [[ ${FUNCNAME[i]} == test_* ]]; then
			printf '%s:%s' "${BASH_SOURCE[i]##*/}" "${BASH_LINENO[i - 1]}"
			return
		fi
	done
}

fail() {
	ktap_failed=1
	printf 'FAIL %s: %s\n' "$(ktap_where)" "$*"
}

die() {
	fail "$@"
	exit "$KSFT_FAIL"
}

skip() {
	if [[ ${ktap_in_case-} ]]; then
		printf 'SKIP %s\n' "$*"
	else
		printf 'TAP version 13\n1..0 # SKIP %s\n' "$*"
	fi
	exit "$KSFT_SKIP"
}

check() {
	local text=$1 output status=0
	shift
	output=$("$@" 2>&1) || status=$?
	((status)) || return 0
	fail "$text (status $status of: $*)"
	[[ -z $output ]] || printf '%s\n' "$output" | tail -n 20
	return 1
}

refute() {
	local text=$1 output
	shift
	if output=$("$@" 2>&1); then
		fail "$text (succeeded: $*)"
		[[ -z $output ]] || printf '%s\n' "$output" | tail -n 20
		return 1
	fi
}

equal() {
	[[ $2 == "$3" ]] && return 0
	fail "$1: expected '$2', got '$3'"
	return 1
}

at_most() {
	[[ $3 =~ ^-?[0-9]+$ ]] && (($3 <= $2)) && return 0
	fail "$1: expected at most $2, got '$3'"
	return 1
}

within() {
	local end=$((SECONDS + $1 * ${LAB_PATIENCE:-1}))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || return 1
		sleep 0.1
	done
}

on_exit() {
	ktap_at_exit+=("$*")
}

ktap_run_at_exit() {
	local i jobs
	for ((i = ${#ktap_at_exit[@]} - 1; i >= 0; i--)); do
		eval "${ktap_at_exit[i]}" || :
	done
	ktap_at_exit=()
	mapfile -t jobs < <(jobs -p)
	((${#jobs[@]} == 0)) || kill "${jobs[@]}" 2>/dev/null || :
}

# One case, in a subshell.
ktap_case() {
	ktap_in_case=1
	ktap_failed=0
	ktap_at_exit=()
	trap ktap_run_at_exit EXIT
	"$1"
	exit "$ktap_failed"
}

ktap_cases() {
	shopt -s extdebug
	compgen -A function test_ | while read -r name; do declare -F "$name"; done | sort -k 2,2n | cut -d ' ' -f 1
	shopt -u extdebug
}

# ktap_main [CASE...]: runs these, or all, and exits.
ktap_main() {
	local names name status number=0 pass=0 failed=0 skipped=0 text reason log began
	if (($#)); then names=("$@"); else mapfile -t names < <(ktap_cases); fi
	log=$(mktemp) || exit "$KSFT_FAIL"
	printf 'TAP version 13\n1..%d\n' "${#names[@]}"
	for name in "${names[@]}"; do
		number=$((number + 1))
		text=${name#test_}
		text=${text//_/ }
		began=$SECONDS
		# tee, not a file shown at the end: one sees where a case hangs.
		(ktap_case "$name") 2>&1 </dev/null | tee "$log" | sed -u 's/^/# /'
		status=${PIPESTATUS[0]}
		printf '# %s: %d s\n' "$name" $((SECONDS - began))
		case $status in
		"$KSFT_PASS")
			printf 'ok %d %s\n' "$number" "$text"
			pass=$((pass + 1))
			;;
		"$KSFT_SKIP")
			reason=$(sed -n 's/^SKIP //p' "$log")
			printf 'ok %d %s # SKIP %s\n' "$number" "$text" "$reason"
			skipped=$((skipped + 1))
			;;
		*)
			printf 'not ok %d %s\n' "$number" "$text"
			failed=$((failed + 1))
			;;
		esac
	done
	rm -f "$log"
	printf '# Totals: pass:%d fail:%d xfail:0 xpass:0 skip:%d error:0\n' "$pass" "$failed" "$skipped"
	((failed == 0)) || exit "$KSFT_FAIL"
	((pass > 0)) || exit "$KSFT_SKIP"
	exit "$KSFT_PASS"
}
