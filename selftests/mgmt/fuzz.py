#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""/dev/mgmt, called as nobody should: mgmt-fuzz in Dom0 and in a guest, as root and as nobody.

    MGMT_FUZZ_SECONDS=60 MGMT_FUZZ_SEED=7 fuzz.py [CASE...]

Without a seed, one is drawn; it is printed. Meanwhile another guest's messages pass.
"""

import json
import os
import time

import mgmt
from mgmt import Bystander, case, check, equal, guests

SECONDS = int(os.environ.get("MGMT_FUZZ_SECONDS", "4"))
SEED = int(os.environ.get("MGMT_FUZZ_SEED", "0")) or time.time_ns() % (1 << 48)
HONEST, FUZZED = guests()[:2] if len(guests()) > 1 else ("", "")
NOBODY = 65534


def on(domain, script, timeout=60):
    """A shell of Dom0, which has no name here, or of a guest."""
    status, output = mgmt.in_guest(domain, script, timeout) if domain else mgmt.run("sh", "-c", script, timeout=timeout)
    check(status == 0, f"{domain or 'Dom0'}: {script}: status {status}: {output.strip()}")
    return output


def kept(domain):
    """What an end of all calls must leave as it was: bound App_IDs, and what the guests' links hold."""
    lines = on(domain, "mgmtctl status").splitlines()
    return [line for line in lines if line.startswith(("endpoints", "guests"))]


def unreclaimable(domain):
    """KiB of kernel memory in slabs that cannot be given back."""
    return int(on(domain, "grep SUnreclaim /proc/meminfo").split()[1])


def fuzz(domain, user):
    mgmt.ready()
    # The first run also fills caches.
    on(domain, "mgmt-fuzz --seconds 1", 120)
    before, memory = kept(domain), unreclaimable(domain)
    as_user = f"--uid {user}" if user else ""
    mgmt.note(f"seed {SEED}, {SECONDS} s")
    with Bystander(HONEST, count=500):
        if user:
            on(domain, "chmod 666 /dev/mgmt")
        try:
            output = on(domain, f"mgmt-fuzz --seed {SEED} --seconds {SECONDS} {as_user}", SECONDS * 3 + 120)
        finally:
            if user:
                on(domain, "chmod 600 /dev/mgmt")
    lines = output.strip().splitlines() or [""]
    for line in lines[:-1]:
        mgmt.note(line)
    result = json.loads(lines[-1]) if lines[-1].startswith("{") else {}
    mgmt.note(f"{result.get('calls')} calls")
    equal("calls that did not do what docs/uapi.md says", 0, result.get("wrong"))
    check(result.get("calls", 0) > 100, "hardly any call was made")
    check(mgmt.until(lambda: kept(domain) == before, 20), f"there was {before}, and is {kept(domain)}")
    check(
        mgmt.until(lambda: unreclaimable(domain) < memory + 4096, 30),
        f"{memory} KiB of kernel memory were in use, and {unreclaimable(domain)} KiB are",
    )
    status, output = mgmt.shell(f"round_trip {FUZZED} 2")
    check(status == 0, f"no round trip afterwards: {output}")


LIMIT = 3 * SECONDS + 300


@case(timeout=LIMIT)
def dom0_root():
    """In Dom0, with all rights"""
    fuzz(None, None)


@case(timeout=LIMIT)
def dom0_nobody():
    """In Dom0, as a user without rights"""
    fuzz(None, NOBODY)


@case(timeout=LIMIT)
def guest_root():
    """In a guest, with all rights"""
    fuzz(FUZZED, None)


@case(timeout=LIMIT)
def guest_nobody():
    """In a guest, as a user without rights"""
    fuzz(FUZZED, NOBODY)


if __name__ == "__main__":
    mgmt.main()
