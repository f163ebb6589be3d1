#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Usage: run_kselftest.sh [OPTIONS]
#
#   -s | --summary               print only each test's result; its output goes
#                                to the directory of --per-test-log, or nowhere
#   -p | --per-test-log [DIR]    write each test's output to DIR/COLLECTION:TEST
#                                (default: /tmp)
#   -t | --test COLLECTION:TEST  run this test (again for more)
#   -c | --collection NAME       run all of this collection (again for more)
#   -S | --skip COLLECTION:TEST  do not run this test (again for more)
#   -x | --extended              also the long tests, in TEST_PROGS_EXTENDED; they
#                                may be named with -t without this
#   -l | --list                  list the tests
#   -n | --dry-run               say what would be run
#   -o | --override-timeout N    seconds for each test, whatever its settings say
#   -b | --budget N              skip what would begin when N seconds are over, but
#                                for the last test, which may judge the others
#   -f | --fail-fast             stop after the first test that fails
#   -h | --help
#
# Runs the tests and reports in KTAP. A collection is a directory here; its
# Makefile lists its tests in TEST_PROGS and TEST_PROGS_EXTENDED, unless
# kselftest-list.txt and kselftest-list-extended.txt (made by `make install`)
# do. A collection's `settings` has timeout=N and
# timeout.TEST=N, in seconds. Status 4 of a test says that it was skipped. The
# kernel's log says which test begins.
#
# Exit status: 0 if all passed or were skipped, 1 if one failed, 2 usage.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1

usage() {
	sed -n '/^# Usage/,/^set/{/^#/s/^# \{0,1\}//p}' "$here/run_kselftest.sh"
}

die() {
	echo "run_kselftest.sh: $*" >&2
	exit 2
}

# makefile_tests DIR VARIABLE: the tests of one collection's Makefile, continued
# lines and all.
makefile_tests() {
	awk -v dir="$1" -v variable="$2" '
		{ sub(/[ \t]*#.*/, "") }
		$0 ~ "^" variable "[ \t]*[:+]?=" { sub(/^[^=]*=/, ""); on = 1 }
		on {
			more = sub(/\\$/, "")
			for (i = 1; i <= NF; i++) print dir ":" $i
			on = more
		}' "$here/$1/Makefile"
}

# all_tests LIST VARIABLE
all_tests() {
	local makefile dir
	if [[ -e $here/kselftest-list.txt ]]; then
		cat "$here/$1"
		return
	fi
	for makefile in "$here"/*/Makefile; do
		[[ -e $makefile ]] || continue
		dir=${makefile%/Makefile}
		makefile_tests "${dir##*/}" "$2"
	done
}

# setting DIR NAME: the last value in its settings.
setting() {
	[[ -e $here/$1/settings ]] || return 0
	awk -F= -v name="$2" '$1 == name { value = $2 } END { print value }' "$here/$1/settings"
}

mapfile -t available < <(all_tests kselftest-list.txt TEST_PROGS)
mapfile -t extended < <(all_tests kselftest-list-extended.txt TEST_PROGS_EXTENDED)
chosen=()
skipped=()
summary='' logdir='' dry='' override='' budget='' fast=''

known() {
	local test
	for test in "${available[@]}" "${extended[@]}"; do
		[[ $test != "$1" ]] || return 0
	done
	die "there is no test $1"
}

while (($#)); do
	case $1 in
	-s | --summary) summary=1 ;;
	-p | --per-test-log)
		logdir=/tmp
		if [[ ${2-} && ${2-} != -* ]]; then
			logdir=$2
			shift
		fi
		mkdir -p "$logdir" || exit 1
		;;
	-t | --test)
		known "${2-}"
		chosen+=("$2")
		shift
		;;
	-c | --collection)
		found=''
		for test in "${available[@]}"; do
			[[ $test == "${2-}:"* ]] || continue
			chosen+=("$test")
			found=1
		done
		[[ $found ]] || die "there is no collection ${2-}"
		shift
		;;
	-S | --skip)
		known "${2-}"
		skipped+=("$2")
		shift
		;;
	-x | --extended) available+=("${extended[@]}") ;;
	-l | --list)
		printf '%s\n' "${available[@]}"
		exit
		;;
	-n | --dry-run) dry=1 ;;
	-o | --override-timeout)
		[[ ${2-} =~ ^[0-9]+$ ]] || die "$1 needs a number of seconds"
		override=$2
		shift
		;;
	-b | --budget)
		[[ ${2-} =~ ^[0-9]+$ ]] || die "$1 needs a number of seconds"
		budget=$2
		shift
		;;
	-f | --fail-fast) fast=1 ;;
	-h | --help)
		usage
		exit
		;;
	*) die "unknown option $1; see --help" ;;
	esac
	shift
done

((${#chosen[@]})) || chosen=("${available[@]}")
tests=()
for test in "${chosen[@]}"; do
	for skip in "${skipped[@]}"; do
		[[ $test != "$skip" ]] || continue 2
	done
	tests+=("$test")
done
((${#tests[@]})) || die "no tests"

if [[ $dry ]]; then
	printf 'would run %s\n' "${tests[@]}"
	exit
fi

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# Runs one test program in its directory and writes down its status. A session
# of its own: a signal to us is none to it.
launch() {
	cd "$here/$1" || exit 1
	setsid -w timeout -k 10 "$3" "./$2" </dev/null
	echo $? >"$work/status"
}

# run DIR NAME LIMIT LOG: its output goes to LOG, and indented to ours unless
# only a summary is wanted. What it leaves running is not waited for; something
# that even SIGKILL does not end (stuck in the kernel) is reported.
run() {
	local pid tail='' end=$((SECONDS + $3 + 30))
	rm -f "$work/status"
	: >"$4"
	launch "$1" "$2" "$3" >"$4" 2>&1 &
	pid=$!
	if [[ ! $summary ]]; then
		tail -n +1 -s 0.2 -f --pid=$pid "$4" | sed -u 's/^/# /' &
		tail=$!
	fi
	while kill -0 $pid 2>/dev/null; do
		if ((SECONDS > end)); then
			echo "# $1:$2 cannot be killed"
			kill -KILL $pid
			echo 137 >"$work/status"
		fi
		sleep 0.2
	done
	[[ ! $tail ]] || wait "$tail"
}

echo "TAP version 13"
echo "1..${#tests[@]}"
number=0 failed=0
began=$SECONDS
for test in "${tests[@]}"; do
	number=$((number + 1))
	dir=${test%%:*} name=${test#*:}
	limit=${override:-$(setting "$dir" "timeout.$name")}
	limit=${limit:-$(setting "$dir" timeout)}
	limit=$((${limit:-45} * ${LAB_PATIENCE:-1}))
	label="selftests: $dir: $name"
	if [[ $budget ]] && ((SECONDS - began > budget && number < ${#tests[@]})); then
		echo "ok $number $label # SKIP no time is left"
		continue
	fi
	echo "# timeout set to $limit"
	echo "# $label"
	echo "<6>$label" 2>/dev/null >/dev/kmsg || :
	start=$SECONDS
	log=$work/log
	[[ ! $logdir ]] || log=$logdir/$test
	run "$dir" "$name" "$limit" "$log"
	status=$(cat "$work/status" 2>/dev/null || echo 1)
	echo "# $((SECONDS - start)) s"
	case $status in
	0) echo "ok $number $label" ;;
	4) echo "ok $number $label # SKIP" ;;
	124 | 137)
		echo "not ok $number $label # TIMEOUT $limit seconds"
		failed=$((failed + 1))
		;;
	*)
		echo "not ok $number $label # exit=$status"
		failed=$((failed + 1))
		;;
	esac
	[[ ! $fast || $failed = 0 ]] || break
done
echo "# Totals: $number tests, $failed failed, $((SECONDS - began)) s"
((failed == 0))
