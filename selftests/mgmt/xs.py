#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Xenstore as a guest sees it: requests through the guest's own /proc/xen/xenbus.

    xs.py GUEST read PATH | write PATH VALUE | rm PATH

Prints the answer: OK and the value, or the error's name.
"""

import base64
import os
import struct
import subprocess
import sys

READ, WRITE, RM, ERROR = 2, 11, 13, 16
HEADER = struct.Struct("<IIII")
REMOVE = object()
LIMIT = 60 * int(os.environ.get("LAB_PATIENCE", "1"))

OPEN = r"""
[ -e /proc/xen/xenbus ] || { modprobe xenfs && mount -t xenfs xenfs /proc/xen; }
exec 3<>/proc/xen/xenbus || exit 3
"""

# One line per frame, one per answer.
ASK = (
    OPEN
    + r"""
f=/tmp/xs.$$
while read -r frame; do
	echo "$frame" | base64 -d >$f
	dd if=$f bs=65536 count=1 >&3 2>/dev/null
	dd bs=65536 count=1 <&3 2>/dev/null | base64 -w0
	echo
done
rm -f $f
"""
)


def frame(path, value):
    """value: None to read, REMOVE to remove, else what to write."""
    kind = READ if value is None else RM if value is REMOVE else WRITE
    body = path.encode() + b"\0" + (value.encode() if kind == WRITE else b"")
    return HEADER.pack(kind, 1, 0, len(body)) + body


def here(path, value=None):
    """A request of this domain's own: the value that was read, or "" for other requests; None if it failed."""
    fd = os.open("/dev/xen/xenbus", os.O_RDWR)
    try:
        os.write(fd, frame(path, value))
        data = b""
        while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[3]:
            data += os.read(fd, 65536)
    finally:
        os.close(fd)
    if HEADER.unpack_from(data)[0] == ERROR:
        return None
    return data[HEADER.size :].decode(errors="replace") if value is None else ""


def ask(guest, requests):
    """requests: (path, value). Returns an answer for each."""
    lines = b"".join(base64.b64encode(frame(*r)) + b"\n" for r in requests)
    done = subprocess.run(
        ["guest", "-i", "-T", str(LIMIT), guest, ASK],
        input=lines, stdout=subprocess.PIPE, timeout=LIMIT + 10, check=True,
    )
    answers = []
    for line in done.stdout.decode().splitlines():
        data = base64.b64decode(line)
        kind, _, _, length = HEADER.unpack_from(data)
        body = data[HEADER.size : HEADER.size + length].rstrip(b"\0").decode(errors="replace")
        answers.append(body if kind == ERROR else f"OK {body}" if kind == READ else "OK")
    return answers


def blast(guest, requests):
    """As fast as the guest's shell can: it forks nothing, and reads no answers."""
    lines = []
    for request in requests:
        octal = "".join(
            chr(b) if 0x2C <= b < 0x7B and b not in b"\\`" else f"\\{b:03o}" for b in frame(*request)
        )
        lines.append(f"printf '{octal}' >&3")
    script = (OPEN + "\n".join(lines) + "\n").encode()
    subprocess.run(["guest", "-i", "-T", str(LIMIT), guest, "sh -s"], input=script, timeout=LIMIT + 10, check=True)


if __name__ == "__main__":
    command = sys.argv[2:]
    what = {"read": None, "rm": REMOVE, "write": command[-1]}[command[0]]
    print(ask(sys.argv[1], [(command[1], what)])[0])
