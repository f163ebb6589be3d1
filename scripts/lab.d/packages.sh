#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What Dom0's image holds beyond Debian's minimum, and the kernel.
printf '%s\n' kmod iproute2 xen-utils-4.20 xen-hypervisor-4.20-amd64 ipmitool \
	busybox-static python3-minimal procps smartmontools strace
