#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Routing and stamping: who gets what, what the header says then, and what comes back."""

import os
import time

import mgmt
from mgmt import (
    DATA, DISCOVER, MVM_COMPONENT, NO_UNDELIVERABLE, REPLY, REQUEST, SELF, TERMINATE, UNDELIVERABLE, UNSPECIFIED, File,
    GuestFile, case, check, equal, guests, message, vm,
)  # fmt: skip


def names():
    """The two guests, their components, and Dom-M's: as a receiver sees them."""
    with File() as f:
        ip = f.info()["component"][4:20]
    first, second = guests()[:2]
    return first, second, vm(mgmt.domid(first), ip), vm(mgmt.domid(second), ip), vm(0, ip)


def epoch(name):
    return int(mgmt.xenstore(f"/local/domain/0/backend/mgmt/{mgmt.domid(name)}/0/epoch"))


def address(text, got, source, source_app, destination, app):
    equal(f"{text}: source", (source, mgmt.app_id(source_app)), (got.source_component, got.source_app))
    equal(f"{text}: destination", (destination, mgmt.app_id(app)), (got.component, got.app))


def arrives(text, sender, receiver, sent, source, source_app, destination, sequence, hops, channel_epoch):
    """Sends it and checks every field of what arrives."""
    sender.write(sent)
    got = receiver.read(10)
    if not check(got is not None, f"{text}: nothing arrived"):
        return
    address(text, got, source, source_app, destination, sent.app.rstrip(b"\0"))
    for field in "version kind priority flags reason length app_header_length correlation reserved".split():
        equal(f"{text}: {field}", getattr(sent, field), getattr(got, field))
    # What is left of it.
    equal(f"{text}: has a deadline", sent.deadline_ms > 0, got.deadline_ms > 0)
    check(sent.deadline_ms - 60_000 < got.deadline_ms <= sent.deadline_ms, f"{text}: {got.deadline_ms} ms are left")
    equal(f"{text}: sequence", sequence, got.sequence)
    equal(f"{text}: hops", hops, got.hops)
    equal(f"{text}: epoch", channel_epoch, got.epoch)
    check(got.payload == sent.payload, f"{text}: the payload is damaged")


VARIANTS = [
    {},
    {"kind": DISCOVER, "flags": REQUEST, "correlation": 1},
    {"kind": REPLY, "correlation": 2**64 - 1, "priority": 255},
    {"kind": TERMINATE, "flags": NO_UNDELIVERABLE, "priority": 7},
    {"payload": os.urandom(8192), "app_header_length": 8192, "deadline_ms": 3_600_000},
    {"payload": b"x", "app_header_length": 1, "flags": REQUEST | NO_UNDELIVERABLE},
    # What the sender may not decide is replaced.
    {"sequence": 77, "hops": 5, "epoch": 99},
    {"source_component": vm(30000), "source_app": mgmt.app_id("Forged"), "payload": b"forged"},
    {"source_component": vm(0), "source_app": mgmt.app_id("Power")},
]


def every_variant(text, sender, receiver, app, to, source, source_app, destination, hops, channel_epoch):
    for number, variant in enumerate(VARIANTS, 1):
        sent = message(app, to, **variant)
        arrives(
            f"{text}, {sorted(variant)}", sender, receiver, sent, source, source_app, destination, number, hops,
            channel_epoch,
        )  # fmt: skip


@case
def dom_m_to_guest():
    """Dom-M to a guest: every field arrives, the stamped ones true."""
    for name, component in zip(guests(), names()[2:4]):
        with File("Above") as above, GuestFile(name, "Below") as below:
            every_variant(f"to {name}", above, below, "Below", component, names()[4], "Above", component, 1, 0)


@case
def guest_to_dom_m():
    """A guest to Dom-M: every field arrives, the stamped ones true."""
    for name, component in zip(guests(), names()[2:4]):
        with File("Above") as above, GuestFile(name, "Below") as below:
            mvm = names()[4]
            every_variant(f"from {name}", below, above, "Above", MVM_COMPONENT, component, "Below", mvm, 1, epoch(name))
            sent = message("Above", vm(0), b"by number")
            arrives("to vm:0", below, above, sent, component, "Below", mvm, len(VARIANTS) + 1, 1, epoch(name))


@case
def guest_to_guest():
    """Guest to guest through the bridge, both ways."""
    first, second, one, two, _ = names()
    with GuestFile(first, "One") as f, GuestFile(second, "Two") as g:
        every_variant("there", f, g, "Two", two, one, "One", two, 2, epoch(first))
        every_variant("back", g, f, "One", one, two, "Two", one, 2, epoch(second))


@case
def within_guest():
    """Within a guest: by self and by its own name; nothing crosses the channel."""
    name, _, component, _, _ = names()
    with GuestFile(name, "Left") as left, GuestFile(name, "Right") as right, File() as f:
        before = f.link(mgmt.domid(name))["rx_messages"]
        every_variant("self", left, right, "Right", SELF, component, "Left", component, 0, 0)
        sent = message("Right", component, b"by name")
        arrives("own name", left, right, sent, component, "Left", component, len(VARIANTS) + 1, 0, 0)
        crossed = f.link(mgmt.domid(name))["rx_messages"] - before
        # One of the last case, about its requests, may have been on its way.
        check(crossed < len(VARIANTS), f"{crossed} messages went over the channel")


@case
def within_dom_m():
    """Within Dom-M: by self, by mvm and by its own name."""
    mvm = names()[4]
    with File("Left") as left, File("Right") as right:
        every_variant("self", left, right, "Right", SELF, mvm, "Left", mvm, 0, 0)
        for number, to in enumerate((MVM_COMPONENT, vm(0), mvm), len(VARIANTS) + 1):
            arrives(f"to {to.hex()}", left, right, message("Right", to), mvm, "Left", mvm, number, 0, 0)


@case
def lying_guest():
    """A guest's kernel that calls itself another VM is believed by nobody."""
    name, second, component, two, mvm = names()
    back = f"/local/domain/0/backend/mgmt/{mgmt.domid(name)}/0"
    true_id, ip = mgmt.xenstore(f"{back}/vm-id"), mgmt.xenstore(f"{back}/mvm-ip")
    try:
        # The guest's bridge stamps what it is told here; writing mvm-ip makes it read anew.
        mgmt.must("xenstore-write", f"{back}/vm-id", str(mgmt.domid(second)), f"{back}/mvm-ip", ip)
        said = f"vm:{mgmt.domid(second)}"
        lies = mgmt.until(lambda: said in mgmt.in_guest(name, "mgmtctl status")[1], 20)
        check(lies, f"the guest does not lie: {mgmt.in_guest(name, 'mgmtctl status')[1]}")
        with GuestFile(name, "Liar") as liar, File("Judge") as judge, GuestFile(second, "Peer") as peer:
            sent = message("Judge", MVM_COMPONENT, b"i am another")
            arrives("to Dom-M", liar, judge, sent, component, "Liar", mvm, 1, 1, epoch(name))
            sent = message("Peer", two, b"i am you")
            # To the name it believes to be its own: it stays there and does not come out.
            try:
                liar.write(sent)
                check(False, "a message to the stolen name left the guest")
            except ConnectionRefusedError:
                pass
            check(peer.read(1) is None, "the owner of the stolen name got it")
            reply = message("Liar", component, b"i know who you are")
            judge.write(reply)
            got = liar.read(10)
            check(got is not None and got.payload == reply.payload, "what Dom-M sends to the liar does not arrive")
    finally:
        mgmt.must("xenstore-write", f"{back}/vm-id", true_id, f"{back}/mvm-ip", ip)
        mgmt.until(lambda: f"vm:{true_id}" in mgmt.in_guest(name, "mgmtctl status")[1], 20)


def comes_back(text, sender, sent, reason, source, source_app, sequence, channel_epoch, destination=None):
    """Sends it; what comes back must be what docs/wire-format.md says."""
    sender.write(sent)
    back = sender.read(10)
    if check(back is not None, f"{text}: nothing came back"):
        returned(text, back, sent, reason, source, source_app, sequence, channel_epoch, destination)


def returned(text, back, sent, reason, source, source_app, sequence, channel_epoch, destination=None):
    equal(f"{text}: kind and reason", (UNDELIVERABLE, reason), (back.kind, back.reason))
    equal(f"{text}: sequence", sequence, back.sequence)
    equal(f"{text}: correlation", sent.correlation, back.correlation)
    equal(f"{text}: payload", (0, b""), (back.length, back.payload))
    equal(f"{text}: epoch", channel_epoch, back.epoch)
    address(text, back, destination or sent.component, sent.app.rstrip(b"\0"), source, source_app)


@case
def undeliverable_from_guest():
    """A guest's message to nobody comes back: reason 1, reason 2."""
    name, second, component, two, mvm = names()
    with GuestFile(name, "Seeker") as f:
        n = epoch(name)
        sent = message("Any", vm(30000, mvm[4:20]), b"hello", correlation=11)
        comes_back("unknown VM", f, sent, mgmt.NO_COMPONENT, component, "Seeker", 1, n)
        sent = message("Any", mgmt.hardware(b"SN-1"), correlation=12)
        comes_back("unknown hardware", f, sent, mgmt.NO_COMPONENT, component, "Seeker", 2, n)
        sent = message("Any", mgmt.stable(b"0123456789abcdef"), flags=REQUEST, correlation=13)
        comes_back("unknown stable name", f, sent, mgmt.NO_COMPONENT, component, "Seeker", 3, n)
        sent = message("Nobody", MVM_COMPONENT, b"x" * 100, correlation=14)
        comes_back("unbound in Dom-M", f, sent, mgmt.NO_ENDPOINT, component, "Seeker", 4, n, mvm)
        sent = message("Nobody", two, correlation=15)
        comes_back("unbound in the other guest", f, sent, mgmt.NO_ENDPOINT, component, "Seeker", 5, n)


@case
def undeliverable_from_dom_m():
    """Dom-M's message to an unbound App_ID in a guest comes back: reason 2."""
    name, _, component, _, mvm = names()
    with File("Seeker") as f:
        for sequence in (1, 2):
            sent = message("Nobody", component, b"hello", correlation=20 + sequence)
            comes_back("unbound in the guest", f, sent, mgmt.NO_ENDPOINT, mvm, "Seeker", sequence, 0)


@case
def nothing_comes_back():
    """With NO_UNDELIVERABLE nothing comes back, and the next message is not held up."""
    name, second, _, two, _ = names()
    with GuestFile(name, "Silent") as f, GuestFile(second, "Two") as g:
        for to, app in ((vm(30000), "Any"), (MVM_COMPONENT, "Nobody"), (two, "Nobody")):
            f.write(message(app, to, flags=NO_UNDELIVERABLE))
        equal("what came back", None, f.read(2))
        f.write(message("Two", two, b"after"))
        got = g.read(10)
        equal("payload and sequence of the next", (b"after", 4), got and (got.payload, got.sequence))
        f.write(message("Nobody", MVM_COMPONENT))
        back = f.read(10)
        equal("sequence of one that wants to know", (UNDELIVERABLE, 5), back and (back.kind, back.sequence))


def all_back(text, back, count, sent, source, source_app, channel_epoch, destination):
    equal(f"{text}: messages that came back", count, len(back))
    for number, b in enumerate(back, 1):
        sent.correlation = 100 + number
        returned(f"{text}, number {number}", b, sent, mgmt.PEER_GONE, source, source_app, number, channel_epoch, destination)


def drain(f, timeout=10.0, quiet=1.0):
    got = []
    while (m := f.read(timeout)) is not None:
        got.append(m)
        timeout = quiet
    return got


@case
def receiver_closes():
    """A receiver closes with messages unread: each comes back, reason 5."""
    name, second, component, two, mvm = names()
    count = 20
    # Within Dom-M.
    with File("Sender") as f:
        with File("Reader"):
            for i in range(1, count + 1):
                f.write(message("Reader", SELF, b"unread", correlation=100 + i))
        all_back("within Dom-M", drain(f), count, message("Reader", mvm), mvm, "Sender", 0, mvm)
    # Guest to Dom-M.
    with GuestFile(name, "Sender") as f:
        with File("Reader") as reader:
            for i in range(1, count + 1):
                f.write(message("Reader", MVM_COMPONENT, b"unread", correlation=100 + i))
            before = reader.info()
            check(reader.readable(5), "nothing arrived")
            time.sleep(1)
        back = f.headers(count + 5)
        all_back("guest to Dom-M", back, count, message("Reader", mvm), component, "Sender", epoch(name), mvm)
        check(before["flags"] & mgmt.INFO_BOUND, "not bound")
    # Dom-M to guest.
    with File("Sender") as f:
        with GuestFile(name, "Reader"):
            for i in range(1, count + 1):
                f.write(message("Reader", component, b"unread", correlation=100 + i))
            time.sleep(1)
        all_back("Dom-M to guest", drain(f), count, message("Reader", component), mvm, "Sender", 0, component)
    # Guest to guest.
    with GuestFile(name, "Sender") as f:
        with GuestFile(second, "Reader"):
            for i in range(1, count + 1):
                f.write(message("Reader", two, b"unread", correlation=100 + i))
            time.sleep(1)
        back = f.headers(count + 5)
        all_back("guest to guest", back, count, message("Reader", two), component, "Sender", epoch(name), two)


@case
def some_read_some_not():
    """Of what a receiver has read nothing comes back."""
    with File("Sender") as f:
        with File("Reader") as reader:
            for i in range(10):
                f.write(message("Reader", SELF, bytes([i]), flags=NO_UNDELIVERABLE if i == 7 else 0))
            for i in range(4):
                equal("payload", bytes([i]), reader.read(1).payload)
        equal("sequences that came back", [5, 6, 7, 9, 10], [b.sequence for b in drain(f, 2, 0.2)])


@case(timeout=120)
def detach_with_messages_under_way():
    """A channel that ends under traffic: each message arrives once or comes back, reason 5."""
    name, _, component, _, _ = names()
    with File("Sender", nonblock=True) as f, GuestFile(name, "Reader") as reader:
        accepted, refused = 0, 0
        while refused < 8 and accepted < 5000:
            try:
                f.write(message("Reader", component, os.urandom(8000)))
                accepted, refused = accepted + 1, 0
            except BlockingIOError:
                refused += 1
                time.sleep(0.25)
        check(accepted < 5000, "a receiver that does not read never stops its sender")
        # The guest's own queue is full, and so is the ring.
        waiting = f.link(mgmt.domid(name))["queued_messages"]
        check(waiting > 20, f"{waiting} messages wait in Dom-M")
        mgmt.must("mgmtctl", "detach", name)
        try:
            back = drain(f, 20)
            there = reader.headers_of_same(accepted, 8000 + mgmt.HEADER_LEN, 15)
        finally:
            mgmt.ready()
        for b in back:
            equal("kind and reason", (UNDELIVERABLE, mgmt.PEER_GONE), (b.kind, b.reason))
        came, went = [b.sequence for b in back], [m.sequence for m in there]
        equal("sequences that came back are in order", sorted(came), came)
        equal("sequences that arrived are in order", sorted(went), went)
        missing = set(range(1, accepted + 1)) - set(came) - set(went)
        check(not missing, f"neither arrived nor came back: {sorted(missing)}")
        both = set(came) & set(went)
        check(not both, f"arrived and came back: {sorted(both)}")
        check(len(back) >= waiting, f"{len(back)} came back, {waiting} were waiting")
        mgmt.note(f"{accepted} accepted, {len(there)} arrived, {len(back)} came back")


@case
def request_and_reply():
    """A request crosses two channels and its reply comes back with its correlation."""
    first, second, one, two, _ = names()
    with GuestFile(first, "Asker") as f, GuestFile(second, "Answerer") as g:
        f.write(message("Answerer", two, b"question", flags=REQUEST, correlation=4711))
        asked = g.read(10)
        if not check(asked is not None, "the request did not arrive"):
            return
        equal("correlation of the request", 4711, asked.correlation)
        g.write(message("Asker", asked.source_component, b"answer", kind=REPLY, correlation=asked.correlation))
        answer = f.read(10)
        equal("kind, correlation, payload", (REPLY, 4711, b"answer"), answer and (answer.kind, answer.correlation, answer.payload))


@case
def no_unspecified_source():
    """No message has an unspecified source or a destination that only its sender understands."""
    name = guests()[0]
    with File("Eye") as f, GuestFile(name, "Voice") as g:
        g.write(message("Eye", MVM_COMPONENT))
        got = f.read(10)
        check(got.source_component != UNSPECIFIED, "no source")
        check(got.component not in (SELF, MVM_COMPONENT, UNSPECIFIED), f"destination {got.component.hex()}")
        equal("kind", DATA, got.kind)


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
