#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A receiver that does not read: its senders are stopped, memory is bounded, others go on."""

import errno
import os
import struct
import subprocess
import time

import mgmt
from mgmt import MVM_COMPONENT, SELF, File, GuestFile, case, check, equal, guests, message, raises, vm


def fill(sender, what, patience=0.0):
    """Writes without waiting until the receiver has no room; returns how many were accepted."""
    accepted, end = 0, time.monotonic() + patience
    while accepted < 200_000:
        try:
            sender.write(what(accepted))
            accepted += 1
            end = time.monotonic() + patience
        except BlockingIOError:
            if time.monotonic() >= end:
                return accepted
            time.sleep(0.05)
    return accepted


def numbered(app, to, length=64):
    return lambda number: message(app, to, struct.pack("<Q", number).ljust(length, b"."))


def number_of(got):
    return struct.unpack_from("<Q", got.payload)[0]


class Flood:
    """mgmt-test flood in a guest, in the background."""

    def __init__(self, guest, app, to, count, size=64):
        self.process = subprocess.Popen(
            ["guest", "-T", "150", guest, f"mgmt-test --timeout 140 flood --to {to} --app {app} "
             f"--count {count} --size {size} --wait 0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def running(self):
        return self.process.poll() is None

    def result(self, timeout=120):
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output.decode().strip()


def stream_of(payload):
    """What mgmt-test writes into a payload: its run, the number, how many there are."""
    magic, stream, number, total = struct.unpack_from("<4sIQQ", payload)
    return magic, stream, number, total


@case
def blocking_write():
    """A blocking write waits while there is no room, and goes on when there is."""
    with File("Slow") as slow, File("Fast", nonblock=True) as fast:
        accepted = fill(fast, numbered("Slow", SELF))
        raises(errno.EAGAIN, "without room", fast.write, message("Slow", SELF))
        fast.nonblock(False)
        child = os.fork()
        if child == 0:
            fast.write(message("Slow", SELF, struct.pack("<Q", accepted)))
            os._exit(0)
        time.sleep(1)
        equal("the writer waits", (0, 0), os.waitpid(child, os.WNOHANG))
        numbers = [number_of(slow.read(1))]
        check(mgmt.until(lambda: os.waitpid(child, os.WNOHANG)[0] == child, 10), "the writer still waits")
        while (m := slow.read(0.2)) is not None:
            numbers.append(number_of(m))
        equal("numbers read", list(range(accepted + 1)), numbers)


@case
def fair_share_within_dom_m():
    """Each sender has a share of its own: one that floods leaves room for the next, and the next."""
    with File("Shared") as shared:
        senders = [File(f"Sharer{i}", nonblock=True) for i in range(6)]
        try:
            counts = [fill(s, numbered("Shared", SELF)) for s in senders]
            mgmt.note(f"accepted: {counts}")
            for i, count in enumerate(counts):
                check(count >= 16, f"sender {i} got room for {count} messages: {counts}")
            check(sum(counts) * (192 + 64) <= shared.info()["queue_bytes"], f"{counts} is more than the queue holds")
            seen = {}
            while (m := shared.read(0.1)) is not None:
                seen.setdefault(m.source_app.rstrip(b"\0").decode(), []).append(number_of(m))
            for i, count in enumerate(counts):
                equal(f"numbers of sender {i}", list(range(count)), seen.get(f"Sharer{i}"))
        finally:
            for s in senders:
                s.close()


@case
def own_backlog():
    """What comes back is not refused, but who does not read it may not go on sending: ENOBUFS."""
    with File("Careless", nonblock=True) as f:
        for _ in range(60):
            with File("Brief"):
                fill(f, numbered("Brief", SELF))
            # Everything has come back now.
            try:
                f.write(message("Careless", SELF, flags=mgmt.NO_UNDELIVERABLE))
            except OSError as e:
                equal("errno", errno.ENOBUFS, e.errno)
                break
        else:
            check(False, "a sender that reads nothing may send for ever")
            return
        returned = 0
        while (m := f.read(0)) is not None:
            returned += m.kind == mgmt.UNDELIVERABLE
        check(returned > 1000, f"{returned} came back")
        f.write(message("Careless", SELF, b"again"))
        equal("after reading", b"again", f.read(1).payload)


@case(timeout=170)
def slow_reader_in_dom_m():
    """A guest floods a reader in Dom-M that does not read: stopped, bounded; the others go on."""
    name, second = guests()[:2]
    vm_id, count = mgmt.domid(name), 8000
    available = mgmt.meminfo("MemAvailable")
    with File("Lazy") as lazy, File("Lively") as lively, GuestFile(second, "Second") as other:
        flood = Flood(name, "Flooder", "Lazy@mvm", count)
        before = lazy.link(vm_id)["stalls"]
        check(mgmt.until(lambda: lazy.link(vm_id)["rx_messages"] > 100, 30), "the flood does not start")
        taken = mgmt.settled(lambda: lazy.link(vm_id)["rx_messages"])
        check(flood.running(), f"the flood has ended: {flood.result()}" if not flood.running() else "")
        check(lazy.link(vm_id)["stalls"] > before, "the link did not stop")
        grown = available - mgmt.meminfo("MemAvailable")
        check(grown < 12 * 1024, f"Dom0 has {grown} KiB less while {taken} messages wait")
        # A second sender to the same reader still has room.
        for i in range(3):
            other.write(message("Lazy", MVM_COMPONENT, b"second"))
        # And a second sender to another reader does not wait for the first.
        begin = time.monotonic()
        other.write(message("Lively", MVM_COMPONENT, b"ping"))
        got = lively.read(10)
        equal("ping of the other guest", b"ping", got and got.payload)
        lively.write(message("Second", vm(mgmt.domid(second)), b"pong"))
        got = other.read(10)
        equal("pong to the other guest", b"pong", got and got.payload)
        mgmt.note(f"{taken} taken, {grown} KiB, round trip of the other {time.monotonic() - begin:.2f} s")
        # Room comes back: all that was sent arrives, in order, each once.
        numbers, seconds, position = [], [], 0
        while len(numbers) < count or len(seconds) < 3:
            m = lazy.read(20)
            if m is None:
                break
            position += 1
            if m.payload == b"second":
                seconds.append(position)
            else:
                numbers.append(stream_of(m.payload)[2])
        check(numbers == list(range(count)), f"{len(numbers)} of {count} arrived, or not in order")
        equal("messages of the second sender", 3, len(seconds))
        # They were let in while the first one's share was full, so they come right behind it.
        check(all(p <= taken + 5 for p in seconds), f"they came at {seconds}, behind {taken} of the flood")
        status, output = flood.result()
        equal(f"status of the flood ({output})", 0, status)


@case(timeout=170)
def slow_reader_in_guest():
    """Dom-M floods a reader in a guest that does not read: EAGAIN, bounded; the other guest goes on."""
    name, second = guests()[:2]
    vm_id, available = mgmt.domid(name), mgmt.meminfo("MemAvailable")
    with File("Above", nonblock=True) as f, GuestFile(name, "Lazy") as lazy, GuestFile(second, "Lively") as lively:
        with File("Other") as other:
            accepted = fill(f, numbered("Lazy", vm(vm_id), 8000), patience=3.0)
            check(100 <= accepted <= 1500, f"{accepted} of 8000 bytes were accepted")
            grown = available - mgmt.meminfo("MemAvailable")
            check(grown < 12 * 1024, f"Dom0 has {grown} KiB less")
            other.write(message("Lively", vm(mgmt.domid(second)), b"ping"))
            got = lively.read(10)
            equal("ping to the other guest", b"ping", got and got.payload)
            # Another sender of Dom-M has a share of the same channel.
            other.nonblock(True)
            other.write(numbered("Lazy", vm(vm_id), 8000)(2**63))
            there = lazy.headers_of_same(accepted + 1, 8000 + mgmt.HEADER_LEN)
            equal("read beyond these", None, lazy.read(1))
            mine = [m.sequence for m in there if m.source_app == mgmt.app_id("Above")]
            check(mine == list(range(1, accepted + 1)), f"{len(mine)} of {accepted} arrived, or not in order")
            equal("messages of the other sender", 1, len(there) - len(mine))
            equal("came back to the sender", None, f.read(0.5))


def passes(sender, receiver, to, what):
    """A message of each priority class arrives, while others to somebody else do not."""
    for priority in (0, 64, 255):
        payload = f"{what} {priority}".encode()
        sender.write(message(*to, payload, priority=priority))
        got = receiver.read(10)
        equal(payload.decode(), payload, got and got.payload)


@case(timeout=250)
def others_pass():
    """Readers that do not read stop those who send to them, and nobody else on the same link."""
    name = guests()[0]
    vm_id, count = mgmt.domid(name), 4000
    up, down = ("Lively", MVM_COMPONENT), ("Beside", vm(vm_id))
    with File("Lazy") as lazy, File("Lively") as lively, File("Above", nonblock=True) as above:
        with GuestFile(name, "Deaf") as deaf, GuestFile(name, "Beside") as beside:
            flood = Flood(name, "Flooder", "Lazy@mvm", count)
            check(mgmt.until(lambda: lazy.link(vm_id)["rx_messages"] > 100, 30), "the flood does not start")
            mgmt.settled(lambda: lazy.link(vm_id)["rx_messages"])
            passes(beside, lively, up, "up, past Lazy")
            passes(lively, beside, down, "down, past Lazy")
            accepted = fill(above, numbered("Deaf", vm(vm_id)), patience=3.0)
            passes(lively, beside, down, "down, past Deaf")
            passes(beside, lively, up, "up, past both")
            # The two ends know of it in a new channel, too.
            mgmt.rebind(name)
            passes(beside, lively, up, "up, anew")
            passes(lively, beside, down, "down, anew")
            check(flood.running(), "the flood has ended")
            there = deaf.headers_of_same(accepted, 64 + mgmt.HEADER_LEN)
            equal("numbers that Deaf reads", list(range(1, accepted + 1)), [m.sequence for m in there])
        numbers = []
        while len(numbers) < count and (m := lazy.read(20)) is not None:
            numbers.append(stream_of(m.payload)[2])
        check(numbers == list(range(count)), f"{len(numbers)} of {count} arrived, or not in order")
        status, output = flood.result()
        equal(f"status of the flood ({output})", 0, status)
        equal("came back to the sender", None, above.read(0.5))


class Stuck:
    """An exchange of two programs of the same name, neither of which reads: all queues of it are full."""

    def __init__(self, guest, app):
        self.above = File(app, nonblock=True)
        # It reads while it can send, which is not for long.
        flood = f"mgmt-test --timeout 100 flood --to {app}@mvm --app {app} --count 100000 --size 64 --wait 0"
        self.below = subprocess.Popen(
            ["guest", "-i", guest, f"{flood} >/dev/null 2>&1 & read _; kill -9 $!"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        vm_id = mgmt.domid(guest)
        received = lambda: self.above.link(vm_id)["rx_messages"]
        before = received()
        check(mgmt.until(lambda: received() > before + 100, 30), "the flood does not start")
        mgmt.settled(received)
        self.count = fill(self.above, numbered(app, vm(vm_id)), patience=3.0)


def both_ends_go(pause, *apps):
    """Programs that send to each other and do not read go in Dom-M, and after a pause in the guest.

    What is returned of two of them is more than a queue holds, at either end. The names are new: what
    read under them before may have them bound for a second yet (see GuestFile).
    """
    name = guests()[0]
    vm_id = mgmt.domid(name)
    with File("Lively") as lively, GuestFile(name, "Beside") as beside:
        stuck = [Stuck(name, app) for app in apps]
        for one in stuck:
            one.above.close()
        time.sleep(pause)
        for one in stuck:
            one.below.stdin.close()
        begin = time.monotonic()
        passes(beside, lively, ("Lively", MVM_COMPONENT), "up")
        passes(lively, beside, ("Beside", vm(vm_id)), "down")
        link = lively.link(vm_id)
        mgmt.note(
            f"{[one.count for one in stuck]} messages waited in Dom0; all had passed after "
            f"{time.monotonic() - begin:.1f} s; {link['undeliverable']} came back to the guest"
        )
        for one in stuck:
            one.below.wait(30)
        check(mgmt.until(lambda: lively.link(vm_id)["queued_messages"] == 0, 10), "something waits still")
        # Nor does anything come back to these names any more.
        mgmt.settled(lambda: lively.link(vm_id)["rx_messages"])
        # They are back, and talk.
        for app in apps:
            with File(app) as above, GuestFile(name, app) as below:
                passes(below, above, (app, MVM_COMPONENT), f"{app}, up")
                passes(above, below, (app, vm(vm_id)), f"{app}, down")


@case(timeout=170)
def both_ends_gone():
    """Programs that send to each other and do not read go at both ends at once: the link goes on."""
    both_ends_go(0, "Doomed", "Condemned")


@case(timeout=170)
def one_end_gone_before_the_other():
    """The same, but first those of Dom-M: what comes back to the guest finds no room there."""
    both_ends_go(3 * mgmt.PATIENCE, "Orphan", "Widow")


@case(timeout=170)
def slow_reader_in_other_guest():
    """Guest to guest: a reader that does not read stops the sender there, and nobody in between."""
    name, second = guests()[:2]
    count, available = 9000, mgmt.meminfo("MemAvailable")
    with File("Between") as between, GuestFile(second, "Lazy") as lazy:
        before = between.link(mgmt.domid(second))["tx_messages"]
        passed = lambda: between.link(mgmt.domid(second))["tx_messages"] - before
        flood = Flood(name, "Flooder", f"Lazy@vm:{mgmt.domid(second)}", count)
        check(mgmt.until(lambda: passed() > 100, 30), "the flood does not start")
        taken = mgmt.settled(passed)
        check(flood.running() and taken < count, f"{taken} of {count} have passed")
        grown = available - mgmt.meminfo("MemAvailable")
        check(grown < 12 * 1024, f"Dom0 has {grown} KiB less")
        # Dom-M and the reader's guest still talk.
        between.write(message("Lazy", vm(mgmt.domid(second)), b"hello"))
        # The reader goes: what it had not read comes back, and the sender notices.
        lazy.close()
        status, output = flood.result()
        check(status != 0, f"the flood ended with {status}: {output}")
        got = between.read(10)
        equal("Dom-M's message came back, too", mgmt.UNDELIVERABLE, got and got.kind)


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
