#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Usage: bmc LINE…
#
# Steers the lab's external BMC (scripts/lab --bmc extern) from Dom0: `bmc kill`,
# `bmc start`, or a line of its control protocol (docs/bmc.md). Prints the answer
# without its `ok`; the status is 1 where it is an error, 2 where there is none.

for name in /sys/class/virtio-ports/*/name; do
	[[ $(<"$name") != bmc ]] || port=/dev/$(basename "${name%/name}")
done
if [[ -z ${port-} ]]; then
	echo "bmc: no external BMC" >&2
	exit 2
fi

# The port can be open but once.
exec 9>/run/lab/bmc.lock
flock -w 60 9 || exit 2
exec 3<>"$port" || exit 2

tag=$$.$RANDOM
printf '%s %s\n' "$tag" "$*" >&3
while read -r -t 20 -u 3 got answer; do
	# An answer that an earlier call did not wait for is not ours.
	[[ $got == "$tag" ]] || continue
	[[ ${answer%% *} == ok ]] || break
	answer=${answer#ok}
	echo "${answer# }"
	exit 0
done
echo "bmc: ${answer:-no answer}" >&2
[[ ${answer-} ]] && exit 1
exit 2
