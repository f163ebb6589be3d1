#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The link to other platforms, as a daemon carries it: here the test is the daemon."""

import errno
import os
import time
import uuid

import mgmt
import traffic
from mgmt import (
    BROADCAST, DATA, DEADLINE, DENIED, DISCOVER, DOWN, EVERYWHERE, HOPS, MVM_COMPONENT, NO_COMPONENT, NO_ENDPOINT,
    PEER_GONE, PLATFORM, PRESENCE, REPLY, REQUEST, SELF, SHARE, UNDELIVERABLE, UNSPECIFIED, UP, WATCH, FabricFile, File,
    GuestFile, case, check, equal, guests, message, must, raises, stable, until, vm,
)  # fmt: skip

HERE = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
THERE = bytes(10) + b"\xff\xff\x0a\x00\x00\x02"
REMOTE = vm(0, THERE)
DOM_M = vm(0, HERE)
DISK = mgmt.hardware(b"Disk-1")


def from_remote(app, component, payload=b"", source=REMOTE, source_app="There", **fields):
    return message(app, component, payload, source_component=source, source_app=mgmt.app_id(source_app), **fields)


def back(text, got, reason, component=None):
    """It is undeliverable, for this reason."""
    if check(got is not None, f"{text}: nothing came back"):
        equal(f"{text}: kind and reason", (UNDELIVERABLE, reason), (got.kind, got.reason))
        if component:
            equal(f"{text}: source", component, got.source_component)


def settled(fabric, text, timeout=5.0):
    """The next message, settled."""
    found = fabric.read(timeout)
    if not check(found is not None, f"{text}: nothing for another platform"):
        raise mgmt.Failure("no message")
    fabric.settle(found[0])
    return found[1]


@case
def without_a_daemon():
    """Without a daemon there is no other platform: write fails, a guest's message comes back."""
    with File("Here") as f, GuestFile(guests()[0], "Guest") as guest:
        raises(errno.EHOSTUNREACH, "to a remote VM", f.write, message("There", REMOTE))
        raises(errno.EHOSTUNREACH, "to an unknown UUID", f.write, message("There", stable(os.urandom(16))))
        raises(errno.EHOSTUNREACH, "to unknown hardware", f.write, message("There", DISK))
        guest.write(message("There", REMOTE))
        back("from a guest", guest.read(), NO_COMPONENT, REMOTE)


@case
def who_may_carry_it():
    """One file, unbound, of an administrator, once the management VM has an address."""
    with File("Bound") as bound:
        raises(errno.EINVAL, "a bound file", mgmt.fcntl.ioctl, bound.fd, mgmt.IOC_FABRIC, bytes(32))
    with File() as f:
        raises(errno.EINVAL, "reserved", mgmt.fcntl.ioctl, f.fd, mgmt.IOC_FABRIC, bytes(31) + b"x")
        raises(errno.EBADFD, "settle without", mgmt.fcntl.ioctl, f.fd, mgmt.IOC_FABRIC_SETTLE, bytes(16))
        raises(errno.EBADFD, "moved without", mgmt.fcntl.ioctl, f.fd, mgmt.IOC_FABRIC_MOVED, bytes(32))
        f.set_mvm_ip(bytes(16))
        raises(errno.ENXIO, "without an address", FabricFile)
        f.set_mvm_ip(HERE)
    with FabricFile() as fabric:
        raises(errno.EBUSY, "a second one", FabricFile)
        raises(errno.EINVAL, "bind", fabric.bind, "Name")
        raises(errno.EAGAIN, "nothing to read", os.read, fabric.fd, 1000)
    pid = os.fork()
    if not pid:
        fd = os.open(mgmt.DEVICE, os.O_RDWR)
        os.setuid(65534)
        try:
            mgmt.fcntl.ioctl(fd, mgmt.IOC_FABRIC, bytes(32))
        except PermissionError:
            os._exit(0)
        os._exit(1)
    equal("without rights: refused", 0, os.waitpid(pid, 0)[1])


@case
def there_and_back():
    """Messages reach the daemon with their numbers, and what it hands in reaches its receiver."""
    name = guests()[0]
    component = vm(mgmt.domid(name), HERE)
    with FabricFile() as fabric, File("Here") as f, GuestFile(name, "Guest") as guest:
        for number, (text, sender, source) in enumerate((("Dom-M", f, DOM_M), ("guest", guest, component)), 1):
            for size in (0, 5, 8192, 100_000 if sender is f else 64):
                sent = message("There", REMOTE, os.urandom(size), correlation=7, priority=130)
                sender.write(sent)
                got = settled(fabric, text)
                equal(f"{text}: source", source, got.source_component)
                equal(f"{text}: destination", REMOTE, got.component)
                equal(f"{text}: other fields", (7, 130), (got.correlation, got.priority))
                check(got.payload == sent.payload, f"{text}: damaged")
        fabric.write(from_remote("Here", DOM_M, b"x" * 200_000, epoch=9, sequence=4, hops=2))
        got = f.read()
        equal("from there", (REMOTE, 9, 4, 3), (got.source_component, got.epoch, got.sequence, got.hops))
        equal("payload", b"x" * 200_000, got.payload)
        fabric.write(from_remote("Guest", component, b"to a guest", source=vm(5, THERE)))
        got = guest.read()
        equal("to a guest", (vm(5, THERE), b"to a guest"), (got.source_component, got.payload))


@case
def no_source_is_local():
    """A source that is not of another platform is refused, and nothing is delivered."""
    name = guests()[0]
    with FabricFile() as fabric, File("Here") as f:
        for source in (DOM_M, vm(mgmt.domid(name), HERE), vm(0), vm(3), SELF, MVM_COMPONENT, PLATFORM, EVERYWHERE,
                       UNSPECIFIED, stable(os.urandom(16))):  # fmt: skip
            raises(errno.EACCES, source.hex(), fabric.write, from_remote("Here", DOM_M, source=source))
        raises(errno.EINVAL, "no App_ID", fabric.write, from_remote("Here", DOM_M, source_app=b""))
        raises(errno.EINVAL, "short", fabric.write, b"x" * 191)
        check(f.read(0.2) is None, "something was delivered")
        fabric.write(from_remote("Here", DOM_M, b"true"))
        equal("a true one", b"true", f.read().payload)
        after = fabric.accepted
    with FabricFile() as fabric:
        equal("only that one was accepted", after + 1, fabric.accepted)


@case
def what_cannot_be_delivered():
    """What a remote component sends in vain comes back to it, and is not sent on to a third."""
    with FabricFile() as fabric, File("Here"):
        for text, to, app, fields, reason in (
            ("nobody", DOM_M, "Nobody", {}, NO_ENDPOINT),
            ("no such guest", vm(30000, HERE), "Here", {}, NO_COMPONENT),
            ("a third platform", vm(0, bytes(15) + b"\x09"), "Here", {}, NO_COMPONENT),
            ("back again", REMOTE, "Here", {}, NO_COMPONENT),
            ("unknown UUID", stable(os.urandom(16)), "Here", {}, NO_COMPONENT),
            ("hops", DOM_M, "Here", {"hops": 8}, HOPS),
        ):
            fabric.write(from_remote(app, to, sequence=12, correlation=3, **fields))
            got = settled(fabric, text)
            back(text, got, reason)
            equal(f"{text}: to who sent it", (REMOTE, 12, 3), (got.component, got.sequence, got.correlation))
        fabric.write(from_remote("Nobody", DOM_M, flags=mgmt.NO_UNDELIVERABLE))
        check(fabric.read(0.3) is None, "who wanted to know of nothing was told")


@case
def settled_as_undeliverable():
    """What the daemon cannot deliver comes back to the sender with its reason, once."""
    with FabricFile() as fabric, File("Here") as f, GuestFile(guests()[0], "Guest") as guest:
        for sender in (f, guest):
            for reason in (NO_COMPONENT, SHARE, PEER_GONE):
                sender.write(message("There", REMOTE, flags=REQUEST, correlation=reason))
                number, _ = fabric.read()
                fabric.settle(number, reason)
                back("reason", sender.read(), reason, REMOTE)
                raises(errno.ENOENT, "twice", fabric.settle, number)
        raises(errno.EINVAL, "no reason", fabric.settle, 1, 99)
        raises(errno.EINVAL, "reserved", fabric.settle, 1, 0, 1)


@case
def returned_by_another_platform():
    """What another platform returns reaches its sender, whatever name it was sent to."""
    name = stable(os.urandom(16))
    with FabricFile() as fabric, File("Here") as f:
        for component in (name, REMOTE):
            f.write(message("There", component, correlation=2))
            sent = settled(fabric, "sent")
            fabric.write(from_remote("Here", sent.source_component, source=component, kind=UNDELIVERABLE,
                                     reason=NO_ENDPOINT, sequence=sent.sequence, correlation=2))  # fmt: skip
            back("returned", f.read(), NO_ENDPOINT, component)
        more = from_remote("Here", DOM_M, b"and more", kind=UNDELIVERABLE, reason=NO_ENDPOINT)
        raises(errno.EINVAL, "what comes back, with a payload", fabric.write, more)


@case
def requests():
    """A request's reply goes to who asked; one that nobody answers comes back in time."""
    with FabricFile() as fabric, File("Here") as f:
        f.write(message("There", REMOTE, b"?", flags=REQUEST, correlation=5, deadline_ms=10_000))
        asked = settled(fabric, "request")
        check(0 < asked.deadline_ms <= 10_000, f"{asked.deadline_ms} ms are left")
        fabric.write(from_remote("Here", asked.source_component, b"!", kind=REPLY, correlation=5))
        equal("reply", (REPLY, 5, b"!"), (lambda m: (m.kind, m.correlation, m.payload))(f.read()))
        f.write(message("There", REMOTE, flags=REQUEST, correlation=6, deadline_ms=300))
        settled(fabric, "request")
        back("late", f.read(), DEADLINE)
        # From there.
        fabric.write(from_remote("Here", DOM_M, flags=REQUEST, correlation=8))
        equal("asked from there", 8, f.read().correlation)
        f.write(message("There", REMOTE, kind=REPLY, correlation=8))
        equal("its reply", (REPLY, 8), (lambda m: (m.kind, m.correlation))(settled(fabric, "reply")))


@case
def rules():
    """Between platforms nothing passes that no rule allows, Dom-M's own messages excepted."""
    name = guests()[0]
    component = vm(mgmt.domid(name), HERE)
    with FabricFile() as fabric, File("Here") as f, GuestFile(name, "Guest") as guest:
        try:
            f.load_policy("")
            f.write(message("There", REMOTE))
            settled(fabric, "from Dom-M")
            fabric.write(from_remote("Here", DOM_M, kind=REPLY))
            equal("its reply", REPLY, f.read().kind)
            fabric.write(from_remote("Here", DOM_M))
            back("from there", settled(fabric, "denied"), DENIED)
            guest.write(message("There", REMOTE))
            back("from a guest", guest.read(), DENIED)
            f.load_policy("allow There@vm:10.0.0.2/0 -> Here@mvm\nallow vm:* -> vm:10.0.0.2/*")
            fabric.write(from_remote("Here", DOM_M))
            equal("allowed", DATA, f.read().kind)
            fabric.write(from_remote("Here", DOM_M, source_app="Other"))
            back("another App_ID", settled(fabric, "denied"), DENIED)
            guest.write(message("There", REMOTE))
            settled(fabric, "from a guest")
            fabric.write(from_remote("Guest", component, kind=REPLY))
            equal("a reply to a guest", REPLY, guest.read().kind)
        finally:
            f.load_policy(mgmt.OPEN_POLICY)


@case
def hardware_of_another_platform():
    """Messages to hardware that nobody serves here reach the daemon, and what it sends back; what is here stays ours."""
    name = guests()[0]
    component = vm(mgmt.domid(name), HERE)
    with File("Here") as f, GuestFile(name, "Guest") as guest:
        with FabricFile() as fabric:
            for number, (text, sender, source) in enumerate((("Dom-M", f, DOM_M), ("guest", guest, component)), 1):
                sender.write(message("Smart", DISK, b"?", flags=REQUEST, correlation=number))
                asked = settled(fabric, text)
                equal(f"{text}: from and to", (source, DISK), (asked.source_component, asked.component))
                # Who answers is that hardware, or nobody.
                answer = {"kind": REPLY, "correlation": number, "source_app": "Smart"}
                fabric.write(from_remote(asked.source_app, source, b"!", source=DISK, **answer))
                got = sender.read()
                equal(f"{text}: the answer", (REPLY, DISK, b"!"), (got.kind, got.source_component, got.payload))
            f.write(message("Smart", DISK, flags=REQUEST, correlation=5, deadline_ms=400))
            settled(fabric, "a request")
            back("nobody answers", f.read(), DEADLINE, DISK)
            f.write(message("Smart", DISK, flags=REQUEST, correlation=6))
            number, _ = fabric.read()
            fabric.settle(number, NO_COMPONENT)
            back("nobody has it", f.read(), NO_COMPONENT, DISK)
            # It asks by itself, and what it cannot be told comes back to it.
            fabric.write(from_remote("Here", DOM_M, b"alarm", source=DISK))
            equal("from there", (DISK, b"alarm"), (lambda m: (m.source_component, m.payload))(f.read()))
            fabric.write(from_remote("Nobody", DOM_M, source=DISK))
            got = settled(fabric, "undeliverable")
            back("to nobody", got, NO_ENDPOINT, DOM_M)
            equal("to whom it comes back", DISK, got.component)
            # What is not here is not sent on to a third.
            fabric.write(from_remote("Smart", DISK))
            back("not here", settled(fabric, "undeliverable"), NO_COMPONENT)
            with File() as disk:
                disk.bind_hardware(DISK, "Smart")
                for kind in (DATA, REPLY, UNDELIVERABLE):
                    reason = NO_ENDPOINT if kind == UNDELIVERABLE else 0
                    sent = from_remote("Here", DOM_M, source=DISK, kind=kind, reason=reason)
                    raises(errno.EACCES, f"it is ours now: {kind}", fabric.write, sent)
                f.write(message("Smart", DISK, b"here"))
                equal("here", b"here", disk.read().payload)
                fabric.write(from_remote("Smart", DISK, b"from there"))
                equal("from there", (REMOTE, b"from there"), (lambda m: (m.source_component, m.payload))(disk.read()))
                disk.write(message("There", REMOTE, b"to there"))
                equal("to there", DISK, settled(fabric, "to there").source_component)
                check(fabric.read(0.2) is None, "what is for hardware here left")


@case
def rules_about_hardware_of_another_platform():
    """To a guest it is denied, and so is what it sends here; a rule must name it. From there to ours, too."""
    with FabricFile() as fabric, File("Here") as f, GuestFile(guests()[0], "Guest") as guest, File() as disk:
        try:
            for text, reason in (
                ("", DENIED),
                # That is about this platform's, of which none has this name.
                ("allow vm:* -> hw:*", NO_COMPONENT),
                ("allow vm:* -> Other@hw:Disk-1", DENIED),
            ):
                f.load_policy(text)
                guest.write(message("Smart", DISK))
                back(text or "no rule", guest.read(), reason, DISK)
                f.write(message("Smart", DISK))
                equal(f"{text}: Dom-M's own", DISK, settled(fabric, "Dom-M's own").component)
                fabric.write(from_remote("Here", DOM_M, source=DISK))
                back(f"{text}: from there", settled(fabric, "denied"), DENIED)
                fabric.write(from_remote("Here", DOM_M, source=DISK, kind=REPLY))
                equal(f"{text}: a reply to Dom-M", REPLY, f.read().kind)
            f.load_policy("allow vm:* -> Smart@hw:Disk-1\nallow hw:Disk-1 -> Here@mvm")
            guest.write(message("Smart", DISK))
            settled(fabric, "allowed")
            fabric.write(from_remote("Here", DOM_M, source=DISK))
            equal("allowed from there", DATA, f.read().kind)
            own = mgmt.hardware(b"Own")
            disk.bind_hardware(own, "Smart")
            fabric.write(from_remote("Smart", own))
            back("to ours", settled(fabric, "denied"), DENIED)
            f.load_policy("allow vm:10.0.0.2/0 -> hw:*")
            fabric.write(from_remote("Smart", own))
            equal("to ours, allowed", REMOTE, disk.read().source_component)
            disk.write(message("There", REMOTE, kind=REPLY))
            equal("its reply", REPLY, settled(fabric, "its reply").kind)
            raises(errno.EACCES, "no reply", disk.write, message("There", REMOTE))
        finally:
            f.load_policy(mgmt.OPEN_POLICY)


@case
def presence_of_hardware():
    """Who watches hardware hears of it wherever it is served, and where that platform is gone."""
    with FabricFile() as fabric, File("Here") as f:
        f.write(message("Smart", DISK, WATCH, kind=PRESENCE))
        told = lambda: (lambda m: m and (m.payload, m.source_component))(f.read(3))
        equal("it is not here", (DOWN, DISK), told())
        equal("asked", (WATCH, DISK), (lambda m: (m.payload, m.component))(settled(fabric, "watch")))
        up = from_remote("Here", DOM_M, UP, kind=PRESENCE, source=DISK, source_app="Smart")
        fabric.write(up)
        equal("there", (UP, DISK), told())
        fabric.hardware(mgmt.hardware(b"Disk-2"), 0)
        fabric.platform(THERE, 0)
        fabric.hardware(DISK, 0)
        equal("gone", (DOWN, DISK), told())
        fabric.hardware(mgmt.hardware(b"Disk-2"), 1)
        fabric.hardware(DISK, 1)
        equal("asked again", WATCH, settled(fabric, "watch").payload)
        fabric.write(up)
        equal("there again", (UP, DISK), told())
        with File() as disk:
            disk.bind_hardware(DISK, "Smart")
            equal("here", (UP, DISK), told())
            # Who has it here hears nothing else.
            fabric.hardware(DISK, 0)
            fabric.hardware(DISK, 1)
            check(f.read(0.3) is None, "there is more to tell")
            check(fabric.read(0.1) is None, "what is here is sought elsewhere")
        equal("no more here", (DOWN, DISK), told())
        equal("perhaps there", WATCH, settled(fabric, "watch").payload)
        # Hardware that watches somebody here.
        fabric.write(from_remote("Later", DOM_M, WATCH, kind=PRESENCE, source=DISK))
        got = settled(fabric, "watched from there")
        equal("not yet", (DOWN, DISK), (got.payload, got.component))
        fabric.hardware(DISK, 0)
        with File("Later"):
            check(fabric.read(0.3) is None, "who is gone is told")
        f.write(message("Smart", DISK, mgmt.UNWATCH, kind=PRESENCE))
        equal("no more", mgmt.UNWATCH, settled(fabric, "unwatch").payload)
        raises(errno.EINVAL, "neither there nor gone", fabric.hardware, DISK, 2)
        raises(errno.EINVAL, "no hardware", fabric.hardware, REMOTE, 1)
        raises(errno.EINVAL, "nothing", fabric.hardware, UNSPECIFIED, 1)
        raises(errno.EINVAL, "reserved", fabric.hardware, DISK, 1, bytes(11) + b"x")
        raises(errno.EBADFD, "another file", mgmt.fcntl.ioctl, f.fd, mgmt.IOC_FABRIC_HARDWARE, DISK + b"\1" + bytes(15))


@case
def hardware_is_listed():
    """An administrator finds all hardware that is served here, in order."""
    with File() as f, File() as one, File() as two, File() as three:
        listed = []
        for file, serial, app in ((one, b"B-1", "Smart"), (two, b"A-1", "Smart"), (three, b"B-1", "Other")):
            file.bind_hardware(mgmt.hardware(serial), app)
        component = UNSPECIFIED
        try:
            while True:
                component = f.hardware_after(component)
                listed.append(component)
        except FileNotFoundError:
            pass
        ours = [component for component in listed if component[4:7] in (b"A-1", b"B-1")]
        equal("listed", [mgmt.hardware(b"A-1"), mgmt.hardware(b"B-1")], ours)
        raises(errno.EINVAL, "a VM", f.hardware_after, DOM_M)
        raises(errno.EINVAL, "reserved", f.hardware_after, UNSPECIFIED, bytes(15) + b"x")


@case(timeout=120)
def daemons_come_and_go():
    """What a daemon left unsettled the next one reads again, by the same numbers and in order."""
    with File("Here") as f:
        with FabricFile() as fabric:
            lineage, accepted = fabric.lineage, fabric.accepted
            for i in range(6):
                f.write(message("There", REMOTE, bytes([i])))
            read = [fabric.read() for _ in range(4)]
            fabric.settle(read[1][0])
            fabric.write(from_remote("Here", DOM_M))
        f.write(message("There", REMOTE, bytes([6])))
        with FabricFile() as fabric:
            equal("it is the same link", (lineage, accepted + 1), (fabric.lineage, fabric.accepted))
            again = [fabric.read() for _ in range(6)]
            first = read[0][0]
            equal("numbers", [first, first + 2, first + 3, first + 4, first + 5, first + 6], [n for n, _ in again])
            equal("in order", [0, 2, 3, 4, 5, 6], [m.payload[0] for _, m in again])
            check(fabric.read(0.1) is None, "there is more")
            raises(errno.ENOENT, "settled before", fabric.settle, read[1][0])
            raises(errno.EMSGSIZE, "no room for a number", os.read, fabric.fd, 7)
            for number, _ in again[:-1]:
                fabric.settle(number)
        # Nobody goes on: what is left comes back.
        began = time.monotonic()
        check(f.read(1) is not None, "the message from there")
        got = f.read(45)
        back("left", got, PEER_GONE)
        check(time.monotonic() - began > 20, "it came back too soon")
        raises(errno.EHOSTUNREACH, "after that", f.write, message("There", REMOTE))
        with FabricFile() as fabric:
            check(fabric.lineage != lineage, "another link has the same lineage")
            equal("accepted", 0, fabric.accepted)


@case(timeout=180)
def bounded():
    """A daemon that settles nothing is handed no more than a window, and senders wait."""
    with FabricFile() as fabric, File("Here", nonblock=True) as f:
        sent, read = 0, []
        payload = bytes(8192 - mgmt.HEADER_LEN)
        while sent < 20_000:
            try:
                f.write(message("There", REMOTE, payload, priority=64))
                sent += 1
            except BlockingIOError:
                found = fabric.read(0)
                if found is None:
                    break
                read.append(found[0])
        equal("unsettled", (8 << 20) // 8192, len(read))
        check(sent < 2500, f"{sent} were taken")
        used, most, _ = f.account("fabric")
        check(0 < used["messages"] <= most["messages"], f"account: {used}")
        fabric.settle(read.pop(0))
        check(fabric.read(1) is not None, "there is room again")
        fabric.close()
        # Before anything that another test sends: wait for the end, and take what comes back.
        returned = 0
        while returned < sent - 1 and (got := f.read(40)) is not None:
            returned += got.kind == UNDELIVERABLE
        equal("came back", sent - 1, returned)


@case
def presence_and_discovery():
    """Who watches a remote App_ID hears of it, and of its end with the link; and the same from there."""
    with FabricFile() as fabric:
        with File("Here") as f:
            watched(fabric, f)
        equal("its watch ended", mgmt.UNWATCH, settled(fabric, "unwatch").payload)


def watched(fabric, f):
    f.write(message("There", REMOTE, WATCH, kind=PRESENCE))
    asked = settled(fabric, "watch")
    equal("watch", (PRESENCE, WATCH, REMOTE), (asked.kind, asked.payload, asked.component))
    fabric.write(from_remote("Here", DOM_M, UP, kind=PRESENCE))
    got = f.read()
    equal("up", (UP, REMOTE), (got.payload, got.source_component))
    # Its host goes and comes, and says again who is there.
    fabric.platform(bytes(15) + b"\x09", 0)
    fabric.platform(THERE, 0)
    got = f.read()
    equal("the host is gone", (DOWN, REMOTE), (got.payload, got.source_component))
    fabric.platform(THERE, 1)
    equal("asked again", (WATCH, REMOTE), (lambda m: (m.payload, m.component))(settled(fabric, "watch")))
    fabric.write(from_remote("Here", DOM_M, UP, kind=PRESENCE))
    equal("up again", UP, f.read().payload)
    raises(errno.EINVAL, "neither there nor gone", fabric.platform, THERE, 2)
    # Nobody has asked for that.
    fabric.write(from_remote("Here", DOM_M, UP, kind=PRESENCE, source_app="Else"))
    check(f.read(0.2) is None, "what nobody asked for was told")
    fabric.write(from_remote("Later", DOM_M, WATCH, kind=PRESENCE))
    equal("not yet", DOWN, settled(fabric, "watched from there").payload)
    with File("Later"):
        equal("up", UP, settled(fabric, "watched from there").payload)
    equal("down", DOWN, settled(fabric, "watched from there").payload)
    fabric.write(from_remote("Here", DOM_M, kind=DISCOVER, flags=BROADCAST | REQUEST, correlation=4))
    answer = settled(fabric, "discovered")
    equal("answer", (REPLY, DOM_M, 4), (answer.kind, answer.source_component, answer.correlation))
    f.write(message("There", REMOTE, kind=DISCOVER, flags=BROADCAST | REQUEST, correlation=4))
    equal("question", DISCOVER, settled(fabric, "question").kind)


def copy(text, got, source, component, payload=b"to all"):
    """A receiver has its copy, with its own name."""
    if check(got is not None, f"{text}: nothing came"):
        equal(text, (source, component, payload), (got.source_component, got.component, got.payload))


@case(timeout=240)
def everywhere():
    """What is sent everywhere reaches this host, and once the daemon; what comes from there this host, and no other."""
    name = guests()[0]
    component = vm(mgmt.domid(name), HERE)
    sent = message("All", EVERYWHERE, b"to all", flags=BROADCAST)
    with File("Here") as f, File("All") as own, GuestFile(name, "Guest") as guest, GuestFile(name, "All") as its:
        f.write(sent)
        copy("without a daemon: Dom-M", own.read(), DOM_M, DOM_M)
        copy("without a daemon: the guest", its.read(), DOM_M, component)
        with FabricFile() as fabric:
            # If the link of an earlier case still waited for a daemon.
            while found := fabric.read(0.3):
                fabric.settle(found[0])
            for sender, source in ((f, DOM_M), (guest, component)):
                sender.write(sent)
                copy("Dom-M", own.read(), source, DOM_M)
                copy("the guest", its.read(), source, component)
                copy("other platforms", settled(fabric, "other platforms"), source, EVERYWHERE)
                check(fabric.read(0.3) is None, "it left twice")
                check(f.read(0.2) is None, "something came back")
            # One that does not have it.
            for sender in (f, guest):
                sender.write(sent)
                number, _ = fabric.read()
                fabric.settle(number, PEER_GONE)
                back("not taken", sender.read(), PEER_GONE, EVERYWHERE)
                for receiver in (own, its):
                    receiver.read()
            fabric.write(from_remote("All", EVERYWHERE, b"to all", flags=BROADCAST))
            copy("from there: Dom-M", own.read(), REMOTE, DOM_M)
            copy("from there: the guest", its.read(), REMOTE, component)
            check(fabric.read(0.3) is None, "it was sent on, or something came back")
            fabric.write(from_remote("Nobody", EVERYWHERE, flags=BROADCAST))
            check(fabric.read(0.3) is None, "that nobody hears it is an error")
            # This host has refused it: nobody there speaks as everybody.
            for text, fields, reason in (
                ("to one", {}, DENIED),
                ("hops", {"flags": BROADCAST, "hops": 8}, HOPS),
            ):
                fabric.write(from_remote("All", EVERYWHERE, **fields))
                back(text, settled(fabric, text), reason, DOM_M)
            # What comes back comes back to one.
            fabric.write(from_remote("All", EVERYWHERE, flags=BROADCAST, kind=UNDELIVERABLE, reason=NO_ENDPOINT))
            check(fabric.read(0.1) is None, "what comes back came back")
            check(own.read(0.2) is None and its.read(1) is None, "a receiver has more than its copies")
    with File("Here") as f, GuestFile(name, "Guest") as guest:
        for text, fields in (
            ("without the flag", {}),
            ("a watch with it", {"kind": PRESENCE, "payload": WATCH, "flags": BROADCAST}),
            ("a reply", {"kind": REPLY, "flags": BROADCAST}),
        ):
            for sender in (f, guest):
                raises(errno.EINVAL, text, sender.write, message("All", EVERYWHERE, **fields))


@case(timeout=240)
def discovery_everywhere():
    """One question finds who serves an App_ID here and on all other platforms; and what is here is told there."""
    name = guests()[0]
    component = vm(mgmt.domid(name), HERE)
    question = {"kind": DISCOVER, "flags": BROADCAST | REQUEST, "correlation": 6}
    answers = lambda read, count: sorted(
        (m.kind, m.source_component, m.source_app, m.correlation) for m in (read() for _ in range(count)) if m
    )
    expected = lambda *components: sorted((REPLY, c, mgmt.app_id("All"), 6) for c in components)
    with FabricFile() as fabric, File("Here") as f, GuestFile(name, "Guest") as guest:
        with File("All"), GuestFile(name, "All"):
            for sender, source in ((f, DOM_M), (guest, component)):
                sender.write(message("All", EVERYWHERE, **question))
                asked = settled(fabric, "the question")
                equal("asked", (DISCOVER, source, EVERYWHERE), (asked.kind, asked.source_component, asked.component))
                remote = [vm(vm_id, bytes(15) + bytes([host])) for host in (8, 9) for vm_id in (0, 4)]
                for there in remote:
                    fabric.write(from_remote(asked.source_app, source, source=there, kind=REPLY, source_app="All",
                                             correlation=asked.correlation))  # fmt: skip
                equal("who serves it", expected(DOM_M, component, *remote), answers(sender.read, 6))
                check(sender.read(1) is None, "somebody was found twice")
            fabric.write(from_remote("All", EVERYWHERE, **question))
            told = answers(lambda: settled(fabric, "an answer"), 2)
            equal("who serves it here", expected(DOM_M, component), told)
            check(fabric.read(0.3) is None, "there is more")


@case(timeout=240)
def presence_everywhere():
    """One watch hears who comes and goes here, in guests, and on all other platforms, also those that come later."""
    name = guests()[0]
    component = vm(mgmt.domid(name), HERE)
    told = lambda m: m and (m.payload, m.source_component)
    servers = (lambda: File("All"), DOM_M), (lambda: GuestFile(name, "All"), component)
    with FabricFile() as fabric, File("Here") as f, GuestFile(name, "Guest") as guest:
        for watcher, source, app in ((f, DOM_M, "Here"), (guest, component, "Guest")):
            watcher.write(message("All", EVERYWHERE, WATCH, kind=PRESENCE))
            asked = settled(fabric, "the watch")
            equal("asked", (PRESENCE, WATCH, source, EVERYWHERE),
                  (asked.kind, asked.payload, asked.source_component, asked.component))  # fmt: skip
            check(watcher.read(1) is None, "it hears of somebody who is not there")
            for serve, where in servers:
                with serve():
                    equal("up", (UP, where), told(watcher.read()))
                equal("down", (DOWN, where), told(watcher.read()))
            remote = lambda event: from_remote(app, source, event, kind=PRESENCE, source_app="All")
            fabric.write(remote(UP))
            equal("up there", (UP, REMOTE), told(watcher.read()))
            fabric.platform(THERE, 0)
            equal("its host is gone", (DOWN, REMOTE), told(watcher.read()))
            fabric.platform(THERE, 1)
            asked = settled(fabric, "the watch again")
            equal("asked again", (WATCH, source, EVERYWHERE), (asked.payload, asked.source_component, asked.component))
            fabric.write(remote(UP))
            equal("up there again", (UP, REMOTE), told(watcher.read()))
            watcher.write(message("All", EVERYWHERE, mgmt.UNWATCH, kind=PRESENCE))
            equal("no more", (mgmt.UNWATCH, EVERYWHERE), (lambda m: (m.payload, m.component))(settled(fabric, "its end")))
            with File("All"):
                check(watcher.read(1) is None, "it hears what it does not watch any more")
        fabric.write(from_remote("All", EVERYWHERE, WATCH, kind=PRESENCE))
        check(fabric.read(0.3) is None, "told there of somebody who is not here")
        for serve, where in servers:
            with serve():
                got = settled(fabric, "up here")
                equal("told there", (UP, where, REMOTE), (got.payload, got.source_component, got.component))
            equal("told there", (DOWN, where), told(settled(fabric, "down here")))
        # By rules, one by one.
        try:
            for rules, who in (
                ("", []),
                ("allow vm:10.0.0.2/0 -> All@mvm kinds data", []),
                ("allow vm:10.0.0.2/0 -> All@mvm", [DOM_M]),
                ("allow vm:10.0.0.2/0 -> All@vm:*", [component]),
            ):
                f.load_policy(rules)
                fabric.write(from_remote("All", EVERYWHERE, mgmt.UNWATCH, kind=PRESENCE))
                with File("All"), GuestFile(name, "All"):
                    fabric.write(from_remote("All", EVERYWHERE, WATCH, kind=PRESENCE))
                    equal(f"{rules or 'no rule'}: told there", [(UP, w) for w in who],
                          [told(settled(fabric, "up here")) for _ in who])  # fmt: skip
                    check(fabric.read(0.5) is None, f"{rules or 'no rule'}: there is more")
                    fabric.write(from_remote("All", EVERYWHERE, mgmt.UNWATCH, kind=PRESENCE))
            f.load_policy("allow vm:* -> vm:10.0.0.2/*")
            guest.write(message("All", EVERYWHERE, WATCH, kind=PRESENCE))
            check(fabric.read(0.5) is None, "a guest's watch has left, and no rule lets it")
        finally:
            f.load_policy(mgmt.OPEN_POLICY)


@case(timeout=240)
def rules_about_everywhere():
    """A guest is let into the fabric by a rule about everything, and by no other; who comes from there, by its name."""
    name = guests()[0]
    component = vm(mgmt.domid(name), HERE)
    sent = message("All", EVERYWHERE, b"to all", flags=BROADCAST)
    with FabricFile() as fabric, File("Here") as f, File("All") as own, GuestFile(name, "Guest") as guest:
        try:
            for text, passes in (
                ("", False),
                ("allow vm:* -> vm:10.0.0.2/*", False),
                ("allow vm:* -> Other@*", False),
                ("deny vm:* -> All@*\nallow vm:* -> *", False),
                ("through Here@mvm vm:* -> *", False),
                ("allow vm:* -> * kinds discover", False),
                ("allow vm:* -> All@* kinds data", True),
                ("allow vm:* -> *", True),
            ):
                f.load_policy(text)
                guest.write(sent)
                found = fabric.read(5 if passes else 0.5)
                if found:
                    fabric.settle(found[0])
                equal(f"{text or 'no rule'}: it left", passes, found is not None)
                while own.read(0.2) or f.read(0):
                    pass
            check(guest.read(1) is None, "the guest was told")
            f.load_policy("")
            f.write(sent)
            settled(fabric, "from Dom-M")
            fabric.write(from_remote("All", EVERYWHERE, b"to all", flags=BROADCAST))
            copy("Dom-M's own", own.read(), DOM_M, DOM_M)
            check(own.read(0.3) is None, "from there: no rule allows it")
            check(fabric.read(0.1) is None, "it was told so")
            f.load_policy("deny mvm -> *\nallow vm:10.0.0.2/0 -> All@mvm")
            f.write(sent)
            check(fabric.read(0.3) is None, "what Dom-M may not send has left")
            own.read()
            fabric.write(from_remote("All", EVERYWHERE, b"to all", flags=BROADCAST))
            copy("from there", own.read(), REMOTE, DOM_M)
            f.load_policy("allow vm:* -> *")
            fabric.write(from_remote("Guest", component, b"no answer"))
            back("another word", settled(fabric, "denied"), DENIED)
            fabric.write(from_remote("Guest", component, kind=REPLY))
            equal("a reply", REPLY, (lambda m: m and m.kind)(guest.read()))
        finally:
            f.load_policy(mgmt.OPEN_POLICY)


@case
def stable_names():
    """A UUID that is no guest's goes to other platforms; a guest's own does not, and cannot be taken."""
    name = guests()[0]
    own = uuid.UUID(mgmt.xenstore(f"/local/domain/{mgmt.domid(name)}/vm").rsplit("/", 1)[1]).bytes
    other = os.urandom(16)
    with FabricFile() as fabric, File("Here") as f, GuestFile(name, "Guest") as guest:
        f.write(message("There", stable(other)))
        equal("elsewhere", stable(other), settled(fabric, "elsewhere").component)
        f.write(message("Guest", stable(own), b"here"))
        equal("here", b"here", guest.read().payload)
        fabric.write(from_remote("Guest", stable(own), b"from there"))
        equal("from there", b"from there", guest.read().payload)
        raises(errno.EBUSY, "it is here", fabric.moved, own)
        raises(errno.ENOENT, "it never was", fabric.moved, other)
        raises(errno.ENOENT, "it has not come", fabric.here, other)
        raises(errno.EINVAL, "reserved", fabric.here, own, reserved=bytes(7) + b"x")
        fabric.here(own)
        f.write(message("Guest", stable(own), b"as before"))
        equal("as before", b"as before", guest.read().payload)


@case(timeout=240)
def a_guest_that_arrives():
    """What a guest from elsewhere is sent waits for what was on its way to it there; and what it sends, too."""
    name = guests()[0]
    own = uuid.UUID(mgmt.xenstore(f"/local/domain/{mgmt.domid(name)}/vm").rsplit("/", 1)[1]).bytes
    with GuestFile(name, "Guest") as guest:
        # Of a guest that was connected another module knows as little as another host.
        must("rmmod", "mgmt")
        gone = lambda: "no" in mgmt.in_guest(name, "mgmtctl status | grep ^uplink")[1]
        check(until(gone, 30), "the guest does not notice")
        must("xl", "pause", name)
        must("insmod", "/lab/mgmt.ko")
        with File() as f:
            f.load_policy(mgmt.OPEN_POLICY)
            f.set_mvm_ip(HERE)
        with FabricFile() as fabric, File("Here") as f:
            must("xl", "unpause", name)
            check(until(lambda: traffic.state(name) == 2, 90), "not connected again")
            guest.write(message("Here", MVM_COMPONENT, b"of the guest"))
            numbers = []
            for text in (b"3", b"4"):
                f.write(message("Guest", stable(own), text))
                number, got = fabric.read()
                numbers.append(number)
                equal("it is elsewhere still", stable(own), got.component)
            f.write(message("Guest", stable(own), b"5"))
            # What was sent there before comes back, from wherever it was.
            fabric.write(from_remote("Guest", stable(own), b"1"))
            fabric.write(from_remote("Guest", stable(own), b"2", source=DOM_M, source_app="Here"))
            raises(errno.EACCES, "by another name", fabric.write,
                   from_remote("Guest", vm(mgmt.domid(name), HERE), source=DOM_M))  # fmt: skip
            check(f.read(1) is None, "what the guest sends was taken")
            fabric.here(own, numbers[0])
            got = [guest.read(20) for _ in range(5)]
            equal("in order", [b"1", b"2", b"3", b"4", b"5"], [m and m.payload for m in got])
            equal("from where", [REMOTE, *[DOM_M] * 4], [m and m.source_component for m in got])
            got = f.read(20)
            equal("of the guest", b"of the guest", got and got.payload)
            raises(errno.ENOENT, "settled", fabric.settle, numbers[0])
            raises(errno.EACCES, "it has arrived", fabric.write, from_remote("Guest", stable(own), source=DOM_M))
            f.write(message("Guest", stable(own), b"6"))
            equal("from now on", b"6", guest.read(20).payload)
    mgmt.ready()


if __name__ == "__main__":
    mgmt.ready()
    with File() as address:
        address.set_mvm_ip(HERE)
    try:
        mgmt.main(need_guests=1)
    finally:
        # The address goes with the module, and the link to other platforms, which is kept for the next
        # daemon: without one, a guest that comes anew waits 30 s for what they may have of it.
        status, output = mgmt.shell("unload dom0")
        if status:
            mgmt.note(f"the module stays: {output}")
