#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Gets OpenIPMI's simulator from Debian's archive.  Runs in the build root, which
# does without it: few runs of the lab want it.
#
#   ipmi_sim.sh DEST     DEST/root gets it, and the libraries that it needs
set -eu

mmdebstrap --variant=extract --components=main --include=openipmi --skip=check/empty \
	trixie "$1/root" "deb ${LAB_MIRROR:-http://deb.debian.org/debian} trixie main"
test -x "$1/root/usr/bin/ipmi_sim"
