#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A hostile frontend: a guest attacks Dom0's backend.

    rogue_front.py [CASE...]
"""

import os
import time

import attacker
import mgmt
import xs
from attacker import (
    ATTACKER, CLOSED, CLOSING, CONNECTED, GONE, HONEST, INITIALISED, NODES, OFFERED, OTHER, READONLY, SAME, SILENT, SWAPPED,
    Domain, back, bind_back, front, front_case, held, nobody, shell, states, wait_states,
)  # fmt: skip
from attacks import closing_attacks, harmless_notes, header_attacks, note_attacks, ring_attacks, stays
from mgmt import NO_UNDELIVERABLE, UNDELIVERABLE, Bystander, File, GuestFile, app_id, case, check, equal, message, vm


@front_case
def headers(side):
    """Every field of a header that may not be so closes the channel, with one complaint."""
    closing_attacks(side, header_attacks(side))


@front_case
def rings(side):
    """Wild indices, lengths and formats close the channel, with one complaint."""
    closing_attacks(side, ring_attacks(side))


@front_case
def races(side):
    """Torn records, jumping indices and scribbled rings, again and again."""
    torn = nobody(side, payload=bytes(500), flags=NO_UNDELIVERABLE).encode().hex()
    for command in (f"torn 1000 {torn}", "jump 1000", "scribble 1000"):
        name = command.split()[0]
        side.fresh(again=1)
        before = side.rogue.status()
        side.rogue.start(command, 5).wait(60)
        after = side.rogue.status()
        sent, closings = (after[counter] - before[counter] for counter in ("sent", "closings"))
        mgmt.note(f"{name}: {sent} records, {closings} channels closed")
        check(closings > 0, f"{name}: it never closed the channel")
        # A connection attempt may fail too, in the middle of it all; it is said once all the same.
        check(side.complaints() <= 1, f"{name}: more than one complaint")


@front_case
def forged_sources(side):
    """Whoever it claims to be, its own name is on what arrives."""
    with File("RogueVictim") as victim:
        ip = victim.info()["component"][4:20]
        own = vm(mgmt.domid(ATTACKER), ip)
        claims = [vm(mgmt.domid(HONEST)), vm(mgmt.domid(HONEST), ip), vm(0, ip), mgmt.SELF, mgmt.MVM_COMPONENT]
        claims += [mgmt.stable(bytes(range(16))), mgmt.hardware(b"SN-1"), vm(0xFFFFFFFF)]
        side.fresh()
        for claim in claims:
            fields = {"source_component": claim, "source_app": app_id("Honest"), "payload": b"forged", "epoch": 77}
            forged = [
                message("RogueVictim", vm(0), sequence=1, **fields),
                message("RogueVictim", vm(0), kind=UNDELIVERABLE, reason=2, **{**fields, "payload": b""}),
            ]
            side.rogue.do(*(f"send {m.encode().hex()}" for m in forged))
            for sent in forged:
                got = victim.read(5)
                if check(got is not None, f"{claim[:8].hex()}: kind {sent.kind} did not arrive"):
                    equal(f"{claim[:8].hex()}: source", own, got.source_component)
                    check(sent.kind == UNDELIVERABLE or got.epoch != 77, f"{claim[:8].hex()}: epoch is not stamped")
        # Too many bridges passed: it comes back instead.
        side.rogue.do(f"send {message('RogueVictim', vm(0), hops=200, **fields).encode().hex()}")
        check(victim.read(0.5) is None, "a message with 200 hops was delivered")
        # What comes back goes to who may have sent it there.
        there = {"kind": UNDELIVERABLE, "reason": 2, "source_component": own, "source_app": app_id("Rogue")}
        back = message("Unasked", vm(mgmt.domid(HONEST)), sequence=1, **there).encode().hex()
        with GuestFile(HONEST, "Unasked") as unasked:
            try:
                for rules, arrives in (("", False), ("allow Unasked@vm:* -> Rogue@vm:*", True)):
                    victim.load_policy(rules)
                    side.rogue.do(f"send {back}")
                    equal(f"it came back, with the rules {rules!r}", arrives, unasked.read(5 if arrives else 1) is not None)
            finally:
                victim.load_policy(mgmt.OPEN_POLICY)
        equal("states", (CONNECTED, CONNECTED), states())
        equal("complaints", 0, side.complaints())


@front_case
def padding(side):
    """Nothing of Dom0's memory, or of an earlier record, is in what it gets."""
    with File("RoguePadding") as sender:
        for size in range(0, 10):
            side.fresh()
            side.rogue.do("taint")
            sender.write(message("Whoever", vm(mgmt.domid(ATTACKER)), b"x" * size))
            records = []

            def arrived():
                records.extend(filter(None, [side.rogue.received()]))
                return records

            if not check(mgmt.until(arrived, 10), f"{size} bytes: nothing arrived"):
                continue
            length, form, rest = records[0]
            equal(f"{size} bytes: length and format", (192 + size, 0), (length, form))
            equal(f"{size} bytes: padding", bytes(-length % 8), rest[length:])
            equal(f"{size} bytes: reserved", bytes(24), rest[40:64])
            sender.read(0.1)


@front_case
def notes(side):
    """Notes that mean nothing close the channel; holding flows back for no reason has no effect."""
    closing_attacks(side, note_attacks(side))
    harmless_notes(side)


@front_case
def without_effect(side):
    """Lying, deaf, stuck and storming ones hurt nobody but themselves."""
    quiet = nobody(side, flags=NO_UNDELIVERABLE).encode().hex()
    loud = nobody(side).encode().hex()
    to_itself, to_the_other = (nobody(side, vm(mgmt.domid(name))).encode().hex() for name in (ATTACKER, HONEST))
    stays(side, "undeliverables, claimed as read", f"flood 1000 1 {loud}")
    stays(side, "undeliverables, never read", f"flood 1000 0 {loud}")
    with File() as f:
        queued = f.link(mgmt.domid(ATTACKER))["queued_bytes"]
    check(queued <= 2 << 20, f"{queued} bytes wait for a guest that does not read")
    stays(side, "messages to nobody, unwanted back", f"flood 1000 0 {quiet}")
    stays(side, "messages to itself", f"flood 1000 0 {to_itself}")
    stays(side, "messages to the other guest", f"flood 1000 1 {to_the_other}")
    stays(side, "an event storm", "storm 2000")
    stays(side, "no event channel any more", "deaf", f"flood 500 0 {loud}")
    stays(side, "ending grants in use", "revoke")
    equal("pages that it took back while Dom0 maps them", 0, side.rogue.status()["revoked"])


REFUSED = [
    ("read-only grants", {"grants": READONLY}),
    ("grants to another guest", {"grants": OTHER, "grantee": HONEST}),
    ("grants to itself", {"grants": OTHER, "grantee": ATTACKER}),
    ("grants that are gone", {"grants": GONE}),
    ("an event channel that does not exist", {"port": 4000}),
    ("an event channel of no table", {"port": 0x7FFFFFFF}),
    ("Xen's own event channel 0", {"port": 0}),
    # The first ports of a domain are those of its xenstore and console.
    ("event channel 1, another's", {"port": 1}),
    ("event channel 2, another's", {"port": 2}),
]


@front_case
def grants(side):
    """Rings that Dom0 may not map, may not write, or that are not what they seem."""
    for name, knobs in REFUSED:
        if "grantee" in knobs:
            knobs = {**knobs, "grantee": mgmt.domid(knobs["grantee"])}
        side.fresh(wait=None, **knobs)
        # The kernel's own error comes first.
        ended = mgmt.until(lambda: "cannot connect" in (xs.here(side.error_node) or ""), 10)
        check(ended, f"{name}: no complaint, but {xs.here(side.error_node)!r}")
        check(states()[1] != CONNECTED, f"{name}: the backend is connected")
        equal(f"{name}: complaints in the log", 1, side.complaints())
    mgmt.note(f"the last error: {xs.here(side.error_node)}")
    good = nobody(side).encode().hex()
    for name, knobs in (("one page for all", {"grants": SAME}), ("the control page last", {"grants": SWAPPED})):
        for command in (f"send {good}", f"flood 300 0 {good}", "scribble 300", "jump 300"):
            # It connects, or fails to: its pages are not what the protocol wants.
            side.fresh(wait=None, **knobs)
            mgmt.until(lambda: states() == (CONNECTED, CONNECTED), 3)
            side.rogue.do(command)
            check(side.complaints() <= 1, f"{name}: more than one complaint")


@front_case
def offers_that_fail(side):
    """A guest that offers what cannot be mapped, again and again, is not listened to for long."""
    side.fresh(wait=None, grants=GONE, again=1)
    closed = mgmt.until(lambda: "too often" in (xs.here(side.error_node) or ""), 30)
    check(closed, f"no end; the last error is {xs.here(side.error_node)!r}")
    time.sleep(2)
    lines = side.log_lines()
    mgmt.note(f"{lines} lines in Dom0's log")
    check(2 <= lines <= 12, f"{lines} lines in Dom0's log")
    side.rogue.set(again=1)
    side.rogue.do(f"xenstore 1000 {front('state')}")
    # Only a new device, which the frame of the test makes, is served again.
    check(states()[1] in (CLOSING, CLOSED), f"the backend listens again: {states()}")


@front_case
def xenstore_storms(side):
    """Its nodes written as fast as the kernel can."""
    for node in ("state", "session", "tx-ring-refs", "event-channel"):
        side.fresh(again=1)
        side.rogue.do(f"xenstore 3000 {front(node)}")
        check(side.complaints() <= 2, f"{node}: more than two complaints")
    # Dom0's thread for all devices is not held up.
    storm = side.rogue.start(f"xenstore 1000 {front('state')}", 6)
    shell("mgmtctl status")
    began = time.monotonic()
    side.rebind()
    took = time.monotonic() - began
    check(took < 10, f"Dom0's backend needed {took:.1f} s to be unbound and bound in a storm")
    mgmt.note(f"unbound and bound in {took:.1f} s meanwhile")
    storm.wait(60)


STEPS = [
    ("before it says anything", SILENT, None),
    ("after its nodes, before its state", NODES, None),
    ("after its offer", OFFERED, (INITIALISED, CONNECTED)),
    ("after it has connected", 0, (CONNECTED, CONNECTED)),
]


def reconnects(name):
    """The other guest's device can come and go: Dom0's thread for all devices waits for nobody."""
    Domain(name).must("cd /sys/bus/xen/drivers/mgmtfront && echo mgmt-0 >unbind && echo mgmt-0 >bind")
    arrived = mgmt.until(lambda: states(name) == (CONNECTED, CONNECTED), 30)
    check(arrived, f"{name} cannot connect meanwhile: {states(name)}")
    shell(f"round_trip {name} 2")


# The other guest connects anew at each step: its stream would end.
@front_case(bystander=False)
def vanishes(side):
    """The module goes, or the domain is paused, at each step of connecting."""
    for name, step, wanted in STEPS:
        side.fresh(wait=wanted, stop=step)
        mgmt.must("xl", "pause", ATTACKER)
        try:
            reconnects(HONEST)
            # And its backend can go without it.
            bind_back("mgmtback", "unbind")
            bind_back("mgmtback")
        finally:
            mgmt.must("xl", "unpause", ATTACKER)
        if wanted:
            # What it offers now is not to be the first that the next backend sees.
            wait_states(wanted, f"{name}: going on")
        side.fresh(wait=wanted, stop=step)
        side.rogue.unload()
        equal(f"{name}: complaints in the log", 0, side.complaints())
        check(mgmt.until(lambda: xs.here(back("state")) != CONNECTED, 10), f"{name}: the backend stays connected")
        side.rogue.load("front")


@case(timeout=600)
def destroyed():
    """Its domain is destroyed at each step of connecting, and in the middle of an attack."""
    mgmt.ready()
    before = held()
    attacks = [*STEPS, ("in the middle of a flood", 0, (CONNECTED, CONNECTED))]
    with Bystander(HONEST, count=500):
        for name, step, wanted in attacks:
            mgmt.must("guest-create", "doomed", "pv", "mem=128", timeout=200)
            try:
                number = int(mgmt.must("xl", "domid", "doomed"))
                rogue = Domain("doomed")
                rogue.load("front", stop=step)
                mgmt.must("mgmtctl", "attach", "doomed")
                ends = (f"{number}/device/mgmt/0", f"0/backend/mgmt/{number}/0")
                nodes = [f"/local/domain/{end}/state" for end in ends]
                device = f"/sys/bus/xen-backend/devices/mgmt-{number}-0"
                mgmt.until(lambda: os.path.exists(device), 10)
                if wanted:
                    arrived = mgmt.until(lambda: tuple(map(xs.here, nodes)) == wanted, 20)
                    check(arrived, f"{name}: states {tuple(map(xs.here, nodes))}")
                if "flood" in name:
                    flood = message("Nobody", vm(0), bytes(32), source_component=vm(0), source_app=app_id("Rogue"))
                    rogue.start(f"flood 60000 0 {flood.encode().hex()}", 60)
                    time.sleep(1)
            finally:
                mgmt.must("guest-destroy", "doomed", timeout=120)
            check(mgmt.until(lambda: not os.path.exists(device), 20), f"{name}: the device stays")
            mgmt.run("mgmtctl", "detach", "--if-needed", str(number))
    check(mgmt.until(lambda: held() == before, 15), f"Dom0 held {before}, now {held()}")


if __name__ == "__main__":
    attacker.main()
