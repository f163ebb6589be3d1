#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Priorities, deadlines, shared names, broadcast and discovery."""

import errno
import time

import mgmt
from mgmt import (
    BIND_SHARED, BROADCAST, DATA, DISCOVER, DOWN, PLATFORM, PRESENCE, REPLY, REQUEST, SELF, UNDELIVERABLE, UNWATCH, UP,
    WATCH, File, GuestFile, case, check, equal, guests, message, raises, vm,
)  # fmt: skip


def names():
    """The components of the two guests and of Dom-M, as a receiver sees them."""
    with File() as f:
        ip = f.info()["component"][4:20]
    first, second = guests()[:2]
    return vm(mgmt.domid(first), ip), vm(mgmt.domid(second), ip), vm(0, ip)


def payloads(file, count, timeout=5):
    got = []
    while len(got) < count and (m := file.read(timeout)) is not None:
        got.append(m.payload)
    return got


def fill(sender, app, size):
    """Sends bulk until there is no room for more; returns how many messages that were."""
    count = 0
    try:
        while True:
            sender.write(message(app, SELF, bytes(size)))
            count += 1
    except BlockingIOError:
        return count


def quiet(file, text):
    m = file.read(0.3)
    check(m is None, f"{text}: {m}")


# -- priorities --


@case
def urgent_first():
    """A message of a higher class overtakes those of lower ones; within a class order is kept."""
    with File("Reader") as reader, File("Sender") as sender:
        order = [(0, b"a"), (63, b"b"), (64, b"c"), (255, b"d"), (0, b"e"), (192, b"f"), (127, b"g"), (128, b"h")]
        for priority, payload in order:
            sender.write(message("Reader", SELF, payload, priority=priority))
        equal("order", [b"d", b"f", b"h", b"c", b"g", b"a", b"b", b"e"], payloads(reader, len(order)))


@case
def urgent_first_over_channel():
    """The same in a guest, for what Dom-M sends."""
    guest = guests()[0]
    component = names()[0]
    with GuestFile(guest, "Reader") as reader, File("Sender") as sender, File() as f:
        before = f.link(mgmt.domid(guest))["tx_messages"]
        for i in range(40):
            sender.write(message("Reader", component, bytes([i])))
        sender.write(message("Reader", component, b"urgent", priority=200))
        check(mgmt.until(lambda: f.link(mgmt.domid(guest))["tx_messages"] == before + 41), "not all crossed")
        time.sleep(0.5)
        got = [reader.read().payload for _ in range(41)]
        equal("the first", b"urgent", got[0])
        equal("the rest", [bytes([i]) for i in range(40)], got[1:])


@case
def room_for_urgent():
    """A sender whose share is full of bulk can still send something urgent."""
    with File("Reader") as reader, File("Sender", nonblock=True) as sender:
        count = fill(sender, "Reader", 64)
        check(count > 100, f"only {count} messages of bulk")
        sender.write(message("Reader", SELF, b"urgent", priority=64))
        equal("the first", b"urgent", reader.read().payload)


# -- deadlines --


def expires(sender, destination, text):
    """A message with a deadline comes back when that has passed, and not before."""
    start = time.monotonic()
    sender.write(message("Reader", destination, b"late", deadline_ms=400, correlation=77))
    back = sender.read(5)
    took = time.monotonic() - start
    if check(back is not None, f"{text}: nothing came back"):
        equal(text, (UNDELIVERABLE, mgmt.DEADLINE, 77), (back.kind, back.reason, back.correlation))
        check(0.4 <= took < 3, f"{text}: it came back after {took:.2f} s")


@case
def deadline_passes():
    """A message that nobody read before its deadline comes back; its receiver never sees it."""
    with File("Reader") as reader, File("Sender") as sender:
        sender.write(message("Reader", SELF, b"before"))
        expires(sender, SELF, "within Dom-M")
        sender.write(message("Reader", SELF, b"after"))
        equal("what was read", [b"before", b"after"], payloads(reader, 2))
        quiet(reader, "more")


@case
def deadline_passes_in_guest():
    """The same with a receiver in a guest, and with a sender there."""
    guest, component = guests()[0], names()[0]
    with GuestFile(guest, "Reader") as reader, File("Sender") as sender:
        expires(sender, component, "to the guest")
        sender.write(message("Reader", component, b"after"))
        equal("what was read", b"after", reader.read().payload)
    with File("Reader") as reader, GuestFile(guest, "Sender") as sender:
        expires(sender, mgmt.MVM_COMPONENT, "to Dom-M")
        quiet(reader, "what was read")


@case
def deadline_kept():
    """A message that is read in time says how much of its time is left."""
    with File("Reader") as reader, File("Sender") as sender:
        sender.write(message("Reader", SELF, deadline_ms=20_000))
        time.sleep(0.5)
        left = reader.read().deadline_ms
        check(10_000 < left <= 19_500, f"{left} ms are left")
        quiet(sender, "it came back")


@case
def blocked_until_deadline():
    """A write that waits for room gives up at the message's deadline: ETIMEDOUT, nothing sent."""
    with File("Reader") as reader, File("Sender", nonblock=True) as sender:
        count = fill(sender, "Reader", 64)
        sender.nonblock(False)
        start = time.monotonic()
        late = message("Reader", SELF, b"late", deadline_ms=300)
        raises(errno.ETIMEDOUT, "a write that must wait", sender.write, late)
        check(0.3 <= time.monotonic() - start < 3, f"it took {time.monotonic() - start:.2f} s")
        equal("what was read", count, len(payloads(reader, count + 1, 0.3)))
        quiet(sender, "something came back")


# -- names that several share --


@case
def shared_name():
    """MGMT_BIND_SHARED: all must say so; the first gets what is for one, all what is for all."""
    with File("Group", flags=BIND_SHARED) as one, File("Sender") as sender:
        raises(errno.EADDRINUSE, "without the flag", File, "Group")
        two = File("Group", flags=BIND_SHARED)
        sender.write(message("Group", SELF, b"for one"))
        sender.write(message("Group", SELF, b"for all", flags=BROADCAST))
        equal("the first", [b"for one", b"for all"], payloads(one, 2))
        equal("the second", [b"for all"], payloads(two, 1))
        two.write(message("Group", SELF, b"of the second", flags=BROADCAST))
        equal("the first", [b"of the second"], payloads(one, 1))
        quiet(two, "its own broadcast")
        one.close()
        sender.write(message("Group", SELF, b"left over"))
        equal("the second", [b"left over"], payloads(two, 1))
        two.close()
    with File("Group"):
        raises(errno.EADDRINUSE, "a name that is not shared", File, "Group", flags=BIND_SHARED)


# -- broadcast --


def arrived(text, file, payload, source, source_app, component):
    got = file.read(10)
    if check(got is not None, f"{text}: nothing arrived"):
        equal(f"{text}: payload", payload, got.payload)
        equal(f"{text}: source", (source, mgmt.app_id(source_app)), (got.source_component, got.source_app))
        equal(f"{text}: destination", component, got.component)
        equal(f"{text}: flags", BROADCAST, got.flags & BROADCAST)


@case
def broadcast_from_dom_m():
    """Dom-M to the platform: an endpoint in Dom-M and one in each guest get it, once, by name."""
    first, second = guests()[:2]
    one, two, mvm = names()
    with File("Sender") as sender, File("All") as here, GuestFile(first, "All") as f, GuestFile(second, "All") as g:
        sender.write(message("All", PLATFORM, b"to all", flags=BROADCAST))
        for text, file, component in (("Dom-M", here, mvm), (first, f, one), (second, g, two)):
            arrived(text, file, b"to all", mvm, "Sender", component)
        quiet(here, "a second copy")
        equal("a second copy", None, f.read(1))
        quiet(sender, "something came back")


@case
def broadcast_from_guest():
    """A guest to the platform: Dom-M, the other guest and its own neighbours get it, not itself."""
    first, second = guests()[:2]
    one, two, mvm = names()
    with (
        File("All") as here, GuestFile(first, "All") as f, GuestFile(first, "Sender") as sender,
        GuestFile(second, "All") as g,
    ):  # fmt: skip
        sender.write(message("All", PLATFORM, b"to all", flags=BROADCAST))
        for text, file, component in (("Dom-M", here, mvm), (first, f, one), (second, g, two)):
            arrived(text, file, b"to all", one, "Sender", component)
        quiet(here, "a second copy")
        f.write(message("All", PLATFORM, b"from one of all", flags=BROADCAST))
        arrived("Dom-M", here, b"from one of all", one, "All", mvm)
        arrived(second, g, b"from one of all", one, "All", two)
        equal("its own broadcast", None, f.read(1))


@case
def broadcast_to_one_domain():
    """To all of an App_ID in one guest; where nobody is, it comes back from there."""
    first, _ = guests()[:2]
    one, _, mvm = names()
    with File("Sender") as sender, GuestFile(first, "All") as f, File("All") as here:
        sender.write(message("All", one, b"there", flags=BROADCAST))
        arrived(first, f, b"there", mvm, "Sender", one)
        quiet(here, "Dom-M")
        raises(errno.EHOSTUNREACH, "no such guest", sender.write, message("All", vm(31000), flags=BROADCAST))
        sender.write(message("Nobody", SELF, flags=BROADCAST))
        sender.write(message("Nobody", PLATFORM, flags=BROADCAST))
        quiet(sender, "a broadcast to nobody came back")


@case
def broadcast_to_full():
    """A receiver that is full does not stop a broadcast: its copy comes back, the others arrive."""
    with (
        File("Group", flags=BIND_SHARED) as full, File("Group", flags=BIND_SHARED) as other,
        File("Sender", nonblock=True) as sender,
    ):  # fmt: skip
        count = fill(sender, "Group", 4096)
        sender.write(message("Group", SELF, bytes(4096), flags=BROADCAST, correlation=5))
        equal("the other", [bytes(4096)], payloads(other, 1))
        back = sender.read(5)
        if check(back is not None, "nothing came back"):
            equal("back", (UNDELIVERABLE, mgmt.SHARE, 5), (back.kind, back.reason, back.correlation))
            equal("sequence", count + 1, back.sequence)
        equal("the full one", count, len(payloads(full, count + 1, 0.2)))


# -- discovery --


def discover(file, app, to=PLATFORM):
    file.write(message(app, to, kind=DISCOVER, flags=BROADCAST | REQUEST, correlation=99))
    found = []
    while (answer := file.read(1)) is not None:
        equal("an answer", (REPLY, 99, b""), (answer.kind, answer.correlation, answer.payload))
        equal("an answer's App_ID", mgmt.app_id(app), answer.source_app)
        found.append(answer.source_component)
    return sorted(found)


@case
def discovery():
    """Who serves an App_ID: each domain's bridge answers for its endpoints, which hear nothing."""
    first, second = guests()[:2]
    one, two, mvm = names()
    with File("Asker") as asker, GuestFile(first, "Asker") as there, GuestFile(second, "Service") as g:
        equal("one guest", [two], discover(asker, "Service"))
        with File("Service", flags=BIND_SHARED) as here, File("Service", flags=BIND_SHARED):
            equal("all", sorted([two, mvm, mvm]), discover(asker, "Service"))
            equal("as a guest sees it", sorted([two, mvm, mvm]), discover(there, "Service"))
            equal("in Dom-M", [mvm, mvm], discover(asker, "Service", SELF))
            quiet(here, "a question")
        equal("the other guest, by name", [two], discover(asker, "Service", two))
        equal("nobody", [], discover(asker, "Nobody"))
        g.write(message("Asker", mvm, b"still here"))
        equal("data", (DATA, b"still here"), (lambda m: (m.kind, m.payload))(asker.read()))


# -- presence --


def watch(file, component, app="Service", event=WATCH):
    file.write(message(app, component, event, kind=PRESENCE))


def hears(text, file, *expected, app="Service"):
    """Exactly these come, in any order: (component, event)."""
    got = []
    while len(got) < len(expected) and (m := file.read(5)) is not None:
        equal(f"{text}: kind and App_ID", (PRESENCE, mgmt.app_id(app)), (m.kind, m.source_app))
        got.append((m.source_component, m.payload))
    equal(text, sorted(expected), sorted(got))


@case
def presence_in_dom_m():
    """A watch tells at once whether somebody is there, then who comes and who goes."""
    _, _, mvm = names()
    with File("Watcher") as watcher:
        watch(watcher, SELF)
        hears("nobody yet", watcher, (mvm, DOWN))
        with File("Service", flags=BIND_SHARED) as first:
            hears("the first", watcher, (mvm, UP))
            with File("Service", flags=BIND_SHARED):
                quiet(watcher, "a second one")
            first.write(message("Watcher", SELF, b"data"))
            equal("data", b"data", watcher.read().payload)
        hears("gone", watcher, (mvm, DOWN))
        watch(watcher, SELF, event=UNWATCH)
        with File("Service"):
            quiet(watcher, "it is not watched any more")
            watch(watcher, SELF)
            hears("there already", watcher, (mvm, UP))
    with File("Service"), File("Watcher") as next_one:
        quiet(next_one, "a watch that outlived its file")


@case(timeout=120)
def presence_in_guests():
    """The same across channels: guest from Dom-M, Dom-M from guest, guest from guest."""
    first, second = guests()[:2]
    one, two, mvm = names()
    with File("Watcher") as here, GuestFile(first, "Watcher") as there:
        watch(here, two)
        hears("Dom-M: nobody yet", here, (two, DOWN))
        watch(there, two)
        hears("guest: nobody yet", there, (two, DOWN))
        watch(there, mgmt.MVM_COMPONENT, "Broker")
        hears("guest: no broker yet", there, (mvm, DOWN), app="Broker")
        with GuestFile(second, "Service"), File("Broker"):
            hears("Dom-M: up", here, (two, UP))
            # Two messages of two bridges: in any order.
            got = sorted((m.source_component, m.payload) for m in (there.read(), there.read()) if m)
            equal("guest: up", sorted([(two, UP), (mvm, UP)]), got)
        hears("Dom-M: down", here, (two, DOWN))
        got = sorted((m.source_component, m.payload) for m in (there.read(), there.read()) if m)
        equal("guest: down", sorted([(two, DOWN), (mvm, DOWN)]), got)


@case(timeout=120)
def presence_on_platform():
    """A watch of the platform hears of every domain, and of one whose channel goes and comes."""
    first, second = guests()[:2]
    one, two, mvm = names()
    with File("Watcher") as watcher, GuestFile(first, "Service"):
        watch(watcher, PLATFORM)
        hears("there already", watcher, (one, UP))
        with File("Service"):
            hears("Dom-M", watcher, (mvm, UP))
            with GuestFile(second, "Service"):
                hears("the second guest", watcher, (two, UP))
                mgmt.rebind(first)
                quiet(watcher, "its channel was made anew")
                mgmt.must("mgmtctl", "detach", first)
                mgmt.must("mgmtctl", "attach", first)
                hears("its link went and came", watcher, (one, DOWN), (one, UP))
            hears("the second guest", watcher, (two, DOWN))
        hears("Dom-M", watcher, (mvm, DOWN))
        watch(watcher, PLATFORM, event=UNWATCH)
        time.sleep(0.5)
    quiet_watch = File("Watcher")
    with GuestFile(second, "Service"):
        quiet(quiet_watch, "a watch that outlived its file")
    quiet_watch.close()


@case
def presence_limits():
    """A bridge's own words are refused; wrong payloads too; a watch that is there is not a second one."""
    with File("Watcher") as watcher:
        for wrong in (UP, DOWN, b"", bytes(8), WATCH + b"x", bytes([1, 1, 0, 0, 0, 0, 0, 0])):
            raises(errno.EINVAL, f"payload {wrong!r}", watch, watcher, SELF, "App", wrong)
        held = lambda: watcher.account("uid:0")[0]["watches"]
        for i in range(10):
            watch(watcher, SELF, f"App{i}")
        equal("held", 10, held())
        watch(watcher, SELF, "App3")
        equal("held with one again", 10, held())
        watch(watcher, SELF, "App3", UNWATCH)
        equal("held with one less", 9, held())
        equal("told", 10, len(payloads(watcher, 20, 0.5)))
        watch(watcher, vm(3, bytes([9] * 16)))
        equal("of another platform, without a link there", [DOWN], payloads(watcher, 1, 5))


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
