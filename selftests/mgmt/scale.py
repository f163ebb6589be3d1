#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Sixteen guests at once: all can talk, none loses, and what one's messages cost stays as it was.

The lab needs memory for those that it has not started: scripts/lab test --spare-mem 2300 scale.
"""

import collections
import itertools
import json
import os
import struct
import subprocess

import mgmt
from mgmt import PLATFORM, File, case, check, domid, equal, guests, message, must, note, until

COUNT = 16
MADE_MEM = 128
# What Xen keeps for a guest beside its memory.
OVERHEAD = 24
LEVELS = (1, 2, 4, 8, 16)
# Of bytes, so large that a receiver's queue holds less than what all have to send.
LARGE = 4096


def make_guests():
    """Starts what is missing; every fourth is PVH."""
    missing = [f"scale{number}" for number in range(len(guests()), COUNT)]
    free = int(must("xl", "info", "free_memory").split(":")[-1])
    needed = len(missing) * (MADE_MEM + OVERHEAD)
    if free < needed:
        raise mgmt.Skip(f"{needed} MiB are needed for more guests, {free} are free: --spare-mem")
    for number, name in enumerate(missing):
        kind = "pv" if number % 4 else "pvh"
        must("guest-create", "--no-wait", name, kind, f"mem={MADE_MEM}", timeout=200)
        os.environ["LAB_GUESTS"] += f" {name}"
    for name in missing:
        must("labcon", "wait", name, str(300 * mgmt.PATIENCE), timeout=310)


def all_guests():
    if len(guests()) < COUNT:
        raise mgmt.Skip(f"there are no {COUNT} guests")
    return guests()


def connected(name):
    """Whether both ends are in the state Connected."""
    ends = (f"/local/domain/{domid(name)}/device/mgmt/0/state", f"/local/domain/0/backend/mgmt/{domid(name)}/0/state")
    return all(mgmt.run("xenstore-read", end) == (0, "4\n") for end in ends)


def attach_only(names):
    """Has channels to these guests, and to no other."""
    for name in guests():
        must("mgmtctl", "attach" if name in names else "detach", "--if-needed", name)
    for name in names:
        check(until(lambda name=name: connected(name), 60), f"{name} does not connect")
    with File() as f:
        check(until(lambda: f.info()["links"] == len(names), 30), f"there are {f.info()['links']} links")


class Program:
    """mgmt-test in a guest, or here, in the background."""

    def __init__(self, where, options, seconds=300):
        seconds *= mgmt.PATIENCE
        command = ["mgmt-test", "--timeout", str(seconds), *options.split()]
        if where:
            command = ["guest", "-T", str(seconds + 10), where, " ".join(command)]
        self.seconds = seconds
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def result(self):
        """What it reports; it must be content."""
        output = self.process.communicate(timeout=self.seconds + 20)[0].decode().strip()
        check(self.process.returncode == 0, f"{self.process.args}: {output}")
        return json.loads(output.splitlines()[-1])


@case(timeout=2400)
def sixteen_guests_connect():
    """Sixteen guests are up and connected at once."""
    make_guests()
    names = all_guests()
    status, output = mgmt.shell(f"ready {' '.join(names)}", timeout=900)
    equal("ready", (0, ""), (status, output if status else ""))
    with File() as f:
        equal("links", COUNT, f.info()["links"])


@case(timeout=600)
def everybody_is_found():
    """A question to the platform is answered once by each of sixteen guests."""
    names = all_guests()
    programs = [Program(name, "echo Everyone --count 1") for name in names]
    wanted = {domid(name) for name in names}
    answered = collections.Counter()
    questions = itertools.count(1)
    with File("Asker") as asker:

        def ask():
            number = next(questions)
            question = {"kind": mgmt.DISCOVER, "flags": mgmt.BROADCAST | mgmt.REQUEST, "correlation": number}
            asker.write(message("Everyone", PLATFORM, **question))
            answered.clear()
            while (got := asker.read(2)) is not None:
                # An earlier question's answer may be late.
                if got.correlation == number:
                    answered[vm_id(got)] += 1
            return set(answered) == wanted

        check(until(ask, 120), f"answers of {sorted(answered)}, of {sorted(wanted)}")
        equal("answers of each", {1}, set(answered.values()))
        # So do messages: each comes back.
        for name in names:
            asker.write(message("Everyone", mgmt.vm(domid(name)), b"you"))
        replied = set()
        while replied != wanted and (got := asker.read(60)) is not None:
            replied |= {vm_id(got)} if got.payload == b"you" else set()
        equal("who replied", wanted, replied)
    for program in programs:
        program.result()


def vm_id(got):
    return struct.unpack_from("<I", got.source_component, 20)[0]


@case(timeout=1800)
def all_talk_at_once():
    """Sixteen guests send as fast as they can: none loses a message, and each gets its share."""
    names = all_guests()
    # More than the first can queue alone, which is half of what the receiver's queue holds.
    each = 1200
    counts = collections.Counter()
    began = ended = None
    with File("Hub") as hub:
        before = {name: hub.link(domid(name))["rx_messages"] for name in names}
        options = f"flood --app Talk --to Hub@mvm --size {LARGE} --count {each} --wait 0"
        floods = [Program(name, options, 900) for name in names]

        def all_send():
            return all(hub.link(domid(name))["rx_messages"] > before[name] for name in names)

        check(until(all_send, 200), "not all send")
        for number in range(each * COUNT):
            got = hub.read(60)
            if got is None:
                raise mgmt.Failure(f"after {number} messages no more came: {counts}")
            source = vm_id(got)
            stream_number = struct.unpack_from("<Q", got.payload, 8)[0]
            if stream_number != counts[source]:
                raise mgmt.Failure(f"domain {source}: {stream_number} came instead of {counts[source]}")
            counts[source] += 1
            if began is None and len(counts) == COUNT:
                began = counts.copy()
            if counts[source] == each and ended is None:
                ended = counts.copy()
        check(hub.read(1) is None, "one too many")
    equal("messages of each", {domid(name): each for name in names}, dict(counts))
    for flood in floods:
        equal("undeliverable", 0, flood.result()["undeliverable"])
    if began is None or sum((ended - began).values()) < COUNT:
        raise mgmt.Failure(f"they did not send at the same time: {began}, {ended}")
    shares = sorted((ended - began)[source] for source in counts)
    mean = sum(shares) / COUNT
    note(f"while all sent, each had {shares[0] / mean:.2f} to {shares[-1] / mean:.2f} of a sixteenth")
    check(shares[0] >= mean / 4, f"shares of {sum(shares)} messages: {shares}")


def measure(name):
    """Median round trip in microseconds, and messages in a second."""
    trips = Program(None, f"pingpong --app Near --to Far@vm:{domid(name)} --count 500 --wait 60").result()
    sink = Program(None, "sink One --count 3000")
    Program(name, "flood --app Many --to One@mvm --count 3000 --wait 60").result()
    return trips["p50_ns"] / 1000, sink.result()["per_second"]


@case(timeout=3000)
def others_cost_nothing():
    """One guest's messages cost the same beside fifteen others' channels as alone."""
    names = all_guests()
    found = collections.defaultdict(list)
    for levels in (LEVELS, LEVELS[::-1]):
        for level in levels:
            attach_only(names[:level])
            echo = Program(names[0], "echo Far --count 500")
            found[level].append(measure(names[0]))
            echo.result()
    best = {level: (min(t for t, _ in both), max(r for _, r in both)) for level, both in found.items()}
    alone = best[1]
    for level, (trip, rate) in best.items():
        note(
            f"{level} guests: round trip {trip:.0f} us ({trip / alone[0]:.2f}), "
            f"{rate} messages/s ({rate / alone[1]:.2f})"
        )
    check(best[16][0] < 2 * alone[0], f"a round trip takes {best[16][0] / alone[0]:.2f} as long beside 15 others")


@case(timeout=600)
def all_go():
    """They go, and nothing of them stays."""
    made = [name for name in all_guests() if name.startswith("scale")]
    for name in made:
        must("guest-destroy", name)
    os.environ["LAB_GUESTS"] = " ".join(name for name in guests() if name not in made)
    attach_only(guests())


if __name__ == "__main__":
    mgmt.main(need_guests=2)
