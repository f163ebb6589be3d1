#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Xenstore as a guest sees it: requests through the guest's own /proc/xen/xenbus.

    xs.py GUEST read PATH | write PATH VALUE

Prints the answer: OK and the value, or the error's name.
"""

import base64
import struct
import subprocess
import sys

READ, WRITE, ERROR = 2, 11, 16
HEADER = struct.Struct("<IIII")

# One line per frame, one per answer.
SCRIPT = r"""
[ -e /proc/xen/xenbus ] || { modprobe xenfs && mount -t xenfs xenfs /proc/xen; }
exec 3<>/proc/xen/xenbus || exit 3
f=/tmp/xs.$$
while read -r frame; do
	echo "$frame" | base64 -d >$f
	dd if=$f bs=65536 count=1 >&3 2>/dev/null
	dd bs=65536 count=1 <&3 2>/dev/null | base64 -w0
	echo
done
rm -f $f
"""


def frame(kind, path, value=None):
    body = path.encode() + b"\0" + (value.encode() if value is not None else b"")
    return HEADER.pack(kind, 1, 0, len(body)) + body


def ask(guest, requests):
    """requests: (path, value), None as value to read. Returns an answer for each."""
    frames = [frame(READ if v is None else WRITE, p, v) for p, v in requests]
    lines = b"".join(base64.b64encode(f) + b"\n" for f in frames)
    done = subprocess.run(
        ["guest", "-i", "-T", "60", guest, SCRIPT], input=lines, stdout=subprocess.PIPE, timeout=70, check=True
    )
    answers = []
    for line in done.stdout.decode().splitlines():
        data = base64.b64decode(line)
        kind, _, _, length = HEADER.unpack_from(data)
        body = data[HEADER.size : HEADER.size + length].rstrip(b"\0").decode(errors="replace")
        answers.append(body if kind == ERROR else f"OK {body}" if kind == READ else "OK")
    return answers


if __name__ == "__main__":
    command = sys.argv[2:]
    print(ask(sys.argv[1], [(command[1], command[2] if command[0] == "write" else None)])[0])
