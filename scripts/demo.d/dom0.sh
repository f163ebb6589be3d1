#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The demonstration's part in Dom0 of the lab; scripts/demo calls it. Loads the
# module everywhere, starts a server with its agent in each guest, and hands over
# to `mgmt-demo run`, which gets the arguments.
set -euo pipefail

insmod /lab/mgmt.ko
# Dom0 serves the guests' devices and makes their load: it goes first.
xl sched-credit2 -d Domain-0 -w 2048

guests=()
for name in $LAB_GUESTS; do
	address=$(awk -v name="$name" '$2 == name { print $1 }' /etc/hosts)
	# One after the other: each measures its own speed first, undisturbed.
	guest -T 60 "$name" "insmod /lab/mgmt.ko &&
		{ setsid mgmt-demo serve --name $name >/tmp/serve.log 2>&1 </dev/null & } &&
		until grep serving /tmp/serve.log; do usleep 100000; done" || {
		echo "$name: the server did not start:" >&2
		guest -T 10 "$name" cat /tmp/serve.log >&2 || :
		exit 1
	}
	guests+=(--guest "$name=$address:80")
done

status=0
mgmt-demo run --out "$LAB_OUT" --states 8,16,24,32,40 "${guests[@]}" "$@" || status=$?
if ((status != 0)); then
	mgmtctl status || :
	tail -n 20 "$LAB_OUT"/mgmtd-*.log || :
fi
exit "$status"
