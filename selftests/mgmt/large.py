#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Messages up to 1 MiB, in all directions: undamaged, in order, and nothing of them stays."""

import json
import random
import subprocess
import time

import mgmt
from mgmt import (
    BROADCAST, MAX_PAYLOAD, NO_ENDPOINT, PEER_GONE, SELF, UNDELIVERABLE, Failure, File, case, check, equal, guests, message, vm,
)  # fmt: skip

PAGE, INLINE = 4096, 8192
# Pages that one domain is lent at most.
MAX_LENT = 1024
# Around the borders of pages, of what goes into the ring, and of what goes at all.
SIZES = sorted(
    {0, 1, 65536, 100_000}
    | {border + by for border in (PAGE, INLINE, 3 * PAGE, 16 * PAGE) for by in (-1, 0, 1)}
    | {MAX_PAYLOAD - by for by in (PAGE, 1, 0)}
)
# Each behind one that takes another way.
MIXED = "32,1048576,64,8193,8192,65536,33,12288,4097,1048575"


def payload(size):
    return random.randbytes(size)


def lent(name):
    """Pages of Dom-M that a guest has."""
    with File() as f:
        return f.account(f"vm:{mgmt.domid(name)}")[0]["pages"]


def none_left(name):
    check(mgmt.until(lambda: lent(name) == 0, 10), f"{name} still has {lent(name)} pages")


class Program:
    """mgmt-test in Dom0 (None) or a guest."""

    def __init__(self, side, arguments, ready=False):
        self.text = f"{side or 'Dom0'}: mgmt-test {arguments}"
        command = f"exec mgmt-test --timeout 150 {arguments}"
        run = ["guest", "-T", "160", side, command] if side else ["sh", "-c", command]
        self.process = subprocess.Popen(
            run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if ready:
            equal(self.text, "ready\n", self.process.stdout.readline())

    def result(self, timeout=170):
        """Its exit status and report."""
        output, _ = self.process.communicate(timeout=timeout)
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if not lines:
            raise Failure(f"{self.text}: no report: {output}")
        return self.process.returncode, json.loads(lines[-1])

    def perfect(self):
        status, report = self.result()
        check(status == 0, f"{self.text}: {report}")
        return report


def name_of(side):
    """How mgmt-test is told where a side is."""
    return f"vm:{mgmt.domid(side)}" if side else "vm:0"


def duplex(one, other, count, sizes):
    """Both send so many to each other at once; returns MiB/s each way."""
    app = f"Duplex{random.randrange(10**6)}"
    sides = [
        Program(here, f"duplex --app {app} --to {app}@{name_of(there)} --count {count} --size {sizes}")
        for here, there in ((one, other), (other, one))
    ]
    sizes = [int(size) for size in sizes.split(",")]
    amount = sum(sizes[i % len(sizes)] for i in range(count)) / 2**20
    seconds = max(side.perfect()["ms"] for side in sides) / 1000
    mgmt.note(f"{one or 'Dom0'} and {other or 'Dom0'}: {amount / seconds:.1f} MiB/s each way")


@case
def within_dom_m():
    """Every size passes within a domain, undamaged."""
    with File("Here") as f:
        equal("max_payload", MAX_PAYLOAD, f.info()["max_payload"])
        for size in SIZES:
            data = payload(size)
            f.write(message("Here", SELF, data))
            got = f.read()
            check(got and got.payload == data, f"{size} bytes: {got}")


@case(timeout=200)
def to_guests_and_back():
    """Every size passes to a guest of each kind and back, undamaged."""
    for name in guests()[:2]:
        echo = Program(name, f"echo Echo{name} --count {len(SIZES)}", ready=True)
        with File("Sender") as f:
            for size in SIZES:
                data = payload(size)
                f.write(message(f"Echo{name}", vm(mgmt.domid(name)), data, app_header_length=size // 2))
                got = f.read(20)
                check(got and got.payload == data, f"{name}: {size} bytes: {got}")
        echo.perfect()


@case(timeout=200)
def in_order_with_small_ones():
    """Large and small ones keep their order: Dom-M and a guest of each kind, both ways at once."""
    for name in guests()[:2]:
        duplex(None, name, 100, MIXED)


@case(timeout=200)
def between_guests():
    """The same between two guests, both ways at once."""
    duplex(*guests()[:2], 100, MIXED)


@case(timeout=200)
def many_senders():
    """Many senders at once to one receiver in Dom-M: each keeps its order, none is left out."""
    sides = [*guests()[:2], None] * 2
    sink = Program(None, f"sink Many --count {len(sides) * 20}", ready=True)
    floods = [
        Program(side, f"flood --app Sender{i} --to Many@{name_of(None)} --wait 0 --count 20 --size 1048576,100,65536,8192")
        for i, side in enumerate(sides)
    ]
    for flood in floods:
        flood.perfect()
    mgmt.note(f"{sink.perfect()}")


@case
def broadcast():
    """A broadcast of a large message reaches all who share the name."""
    flags = mgmt.BIND_SHARED
    with File("Caller") as caller, File("All", flags=flags) as one, File("All", flags=flags) as other:
        data = payload(MAX_PAYLOAD)
        caller.write(message("All", SELF, data, flags=BROADCAST))
        for f in (one, other):
            got = f.read()
            check(got and got.payload == data, f"{got}")


def fill(f, app, to, patience=2.0):
    """Writes the largest messages until there is no room; returns how many were taken."""
    taken, data = 0, payload(MAX_PAYLOAD)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            f.write(message(app, to, data))
            taken += 1
            end = time.monotonic() + patience
        except BlockingIOError:
            time.sleep(0.05)
    return taken


@case(timeout=200)
def receiver_goes():
    """A receiver that does not read stops its sender; when it goes, all comes back and nothing stays."""
    for name in guests()[:2]:
        with File("Patient", nonblock=True) as f:
            reader = Program(name, "sink Deaf --count 1000 --slow 90000000", ready=True)
            taken = fill(f, "Deaf", vm(mgmt.domid(name)))
            check(3 <= taken <= 30, f"{name}: {taken} of 1 MiB were taken")
            check(lent(name) <= MAX_LENT, f"{name} has {lent(name)} pages")
            mgmt.must("guest", name, "killall mgmt-test")
            reader.process.wait(20)
            # It had read one.
            back = [f.read(20) for _ in range(taken - 1)]
            for got in back:
                check(got and got.kind == UNDELIVERABLE, f"{name}: {got}")
                check(got and got.reason in (PEER_GONE, NO_ENDPOINT), f"{name}: {got}")
            equal(f"{name}: one too many", None, f.read(0.5))
            mgmt.note(f"{name}: {taken} taken")
        none_left(name)


# Of a flood in channel_goes: more than there is room for.
COUNT = 24


@case(timeout=300)
def channel_goes():
    """A channel that ends in the middle: each message arrives or comes back, and nothing stays."""
    name = guests()[0]
    for seconds in (0.1, 0.3, 0.6):
        sink = Program(name, "sink Cut --count 100000", ready=True)
        there = Program(name, f"flood --app Up --to Here@{name_of(None)} --wait 0 --count {COUNT} --size 1048576,64")
        with File("Here") as here, File("Down", nonblock=True) as down:
            check(here.readable(20), "the flood does not start")
            end = time.monotonic() + seconds
            sent = 0
            while time.monotonic() < end:
                try:
                    down.write(message("Cut", vm(mgmt.domid(name)), payload(random.choice((64, MAX_PAYLOAD)))))
                    sent += 1
                except BlockingIOError:
                    time.sleep(0.01)
            mgmt.rebind(name)
            back = 0
            while (got := down.read(1)) is not None:
                equal("kind", UNDELIVERABLE, got.kind)
                back += 1
            # The link outlives its channel: in order, each once, and all.
            numbers = []
            while len(numbers) < COUNT and (got := here.read(20)) is not None:
                numbers.append(got.sequence)
            equal("what came from there", list(range(numbers[0], numbers[0] + COUNT)), numbers)
            there.perfect()
            mgmt.note(f"after {seconds} s: {sent} sent, {back} came back")
        mgmt.in_guest(name, "killall mgmt-test")
        sink.process.wait(20)
        mgmt.ready()
        none_left(name)


@case(timeout=300)
def nothing_stays():
    """After 60 of the largest each way, memory is as before, and no page is lent."""
    name = guests()[0]

    def memory():
        there = mgmt.must("guest", name, "grep MemAvailable: /proc/meminfo").split()[1]
        return mgmt.meminfo("MemAvailable"), int(there)

    duplex(None, name, 10, "1048576")
    before = memory()
    duplex(None, name, 60, "1048576")
    none_left(name)
    for side, was, now in zip(("Dom0", name), before, memory()):
        check(was - now < 8 * 1024, f"{side}: {was} KiB were available, now {now}")


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
