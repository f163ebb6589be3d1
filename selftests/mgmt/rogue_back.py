#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A hostile backend: Dom0 attacks a guest's frontend.

    rogue_back.py [CASE...]
"""

import random
import time

import attacker
import mgmt
import xs
from attacker import (
    ATTACKER, CONNECTED, INITIALISED, NODES, OFFERED, SILENT,
    back, back_case, bind_back, front, grants, nobody, shell, states,
)  # fmt: skip
from attacks import closing_attacks, harmless_notes, header_attacks, note_attacks, ring_attacks
from mgmt import check, equal


@back_case
def headers(side):
    """Every field of a header that may not be so closes the channel, with one complaint."""
    closing_attacks(side, header_attacks(side))


@back_case
def rings(side):
    """Wild indices, lengths and formats close the channel, with one complaint."""
    closing_attacks(side, ring_attacks(side))


@back_case
def notes(side):
    """Notes that mean nothing close the channel; holding flows back for no reason has no effect."""
    closing_attacks(side, note_attacks(side))
    harmless_notes(side)


@back_case
def without_effect(side):
    """Floods and storms do not hang the guest, and it gets nothing of the guest's memory."""
    equal("bytes that are not zero in new rings", 0, side.rogue.status()["nonzero"])
    loud = nobody(side).encode().hex()
    for name, command in [
        ("undeliverables, claimed as read", f"flood 1000 1 {loud}"),
        ("undeliverables, never read", f"flood 1000 0 {loud}"),
        ("an event storm", "storm 1000"),
    ]:
        side.fresh()
        storm = side.rogue.start(command, 3)
        began = time.monotonic()
        side.guest.must("true", 30)
        mgmt.note(f"{name}: the guest answers after {time.monotonic() - began:.1f} s")
        storm.wait(60)
        equal(f"{name}: states", (CONNECTED, CONNECTED), states())
        equal(f"{name}: complaints in the log", 0, side.complaints())
    for command in (f"torn 2000 {loud}", "jump 2000", "scribble 2000"):
        side.fresh()
        side.rogue.do(command)
        check(side.complaints() <= 1, f"{command.split()[0]}: more than one complaint")


GOOD = {"protocol": "1", "max-ring-page-order": "3", "epoch": "5", "vm-id": "1", "mvm-id": "0", "mvm-ip": "0" * 32}
GARBAGE = [
    ("protocol", ["2", "", "one", "-1", None]),
    ("max-ring-page-order", ["-1", "", "4294967296", "x", None]),
    ("epoch", ["", "-1", "99999999999", None]),
]


@back_case
def garbage(side):
    """Garbage in a node that the frontend reads: it offers nothing, and says why, once."""
    for node, values in GARBAGE:
        for value in values:
            xs.here(back("state"), "1")
            side.fresh(wait=None, stop=SILENT)
            for name, text in {**GOOD, node: value}.items():
                xs.here(back(name), xs.REMOVE if text is None else text)
            xs.here(back("state"), "2")
            check(mgmt.until(lambda: xs.here(side.error_node), 10), f"{node} = {value!r}: no complaint")
            check(xs.here(front("state")) != INITIALISED, f"{node} = {value!r}: it offers rings all the same")
            equal(f"{node} = {value!r}: complaints in the log", 1, side.complaints())


@back_case
def xenstore_storms(side):
    """Names and states written as fast as the kernel can."""
    side.fresh()
    side.rogue.do(f"xenstore 3000 {back('mvm-ip')}")
    time.sleep(0.5)
    equal("states after a storm of names", (CONNECTED, CONNECTED), states())
    lines = int(side.guest.must("dmesg | grep -c 'management VM.s names' || :"))
    check(lines <= 1, f"{lines} lines in the guest's log about names that cannot be read")
    dice = random.Random(3)
    values = [str(n) for n in range(9)] + ["", "x", "-1"]
    for _ in range(150):
        xs.here(back("state"), dice.choice(values))
    side.rogue.do(f"xenstore 3000 {back('state')}")
    side.guest.must("true", 30)


@back_case
def keeps_the_rings(side):
    """Pages that it keeps mapped are not used for anything else before it lets go."""
    side.fresh(hold=1)
    side.rebind()
    check(mgmt.until(lambda: side.rogue.status()["held"] == 18, 10), f"{side.rogue.status()}")
    # A lot of memory, all of it written.
    side.guest.must("dd if=/dev/urandom of=/tmp/fill bs=1M count=50 2>/dev/null; rm /tmp/fill", 120)
    status = side.rogue.status()
    equal("pages that it keeps", 18, status["held"])
    equal("bytes that changed in them", 0, status["changed"])
    check(grants() > 0, "no grants")
    side.rogue.set()
    side.rogue.do("release")


@back_case
def vanishes(side):
    """It goes at each step of connecting; the guest connects to the next one."""
    steps = [("silent", SILENT), ("mapped, not connected", NODES), ("deaf to the offer", OFFERED), ("up", 0)]
    for name, step in steps:
        side.fresh(wait=None, stop=step)
        time.sleep(0.5)
        side.rogue.unload()
        bind_back("mgmtback")
        check(mgmt.until(lambda: states() == (CONNECTED, CONNECTED), 20), f"{name}: {states()} with the next one")
        shell(f"round_trip {ATTACKER} 1")
        side.rogue.load("back")
        bind_back("mgmtback", "unbind")
        bind_back("mgmt_rogue")


if __name__ == "__main__":
    attacker.main()
