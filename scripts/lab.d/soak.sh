#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# soak.sh COUNT: make and destroy COUNT guests, PV and PVH in turn, with cold
# caches: that is when xl create was seen to hang.
set -e
i=0
while [ $i -lt "$1" ]; do
	i=$((i + 1))
	type=pv
	[ $((i % 2)) = 1 ] || type=pvh
	echo 3 >/proc/sys/vm/drop_caches
	guest-create "again$i" $type
	guest "again$i" uname -r
	guest-destroy "again$i"
done
# All at once, so that CPUs change hands: do vector registers survive that?
jobs=
for guest in $LAB_GUESTS; do
	guest "$guest" labcon fpu 300 &
	jobs="$jobs $!"
done
labcon fpu 300 &
jobs="$jobs $!"
for job in $jobs; do
	wait "$job"
done
