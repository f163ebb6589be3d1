#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Hostile ends of a channel, with large messages: pages that lie, that go, and that are kept.

    rogue_large.py [CASE...]
"""

import attacker
import mgmt
from attacker import ATTACKER, CONNECTED, HONEST, back_case, front_case, nobody, states
from attacks import closes, closing_attacks
from mgmt import MAX_PAYLOAD, NO_UNDELIVERABLE, File, check, equal, message, vm

PAGE = 4096
GOOD, OTHER, GONE = 0, 1, 2
NOT_GRANTED = "without its pages"
# Pages that one domain is lent at most.
MAX_LENT = 1024


def header(side, length, to=None, **fields):
    """Of a message with so many bytes of payload."""
    return (to or nobody(side, payload=b"", flags=NO_UNDELIVERABLE, length=length, **fields)).encode()


def record(side, length, refs, cut=0):
    """A record that says where the pages of such a message are."""
    body = header(side, length) + b"".join(ref.to_bytes(4, "little") for ref in refs)
    body = body[: len(body) - cut]
    return f"record {len(body)} 1 {body.hex()}"


def wrong_records(side):
    """Records that end the channel: name, commands, the complaint."""
    wrong = [
        ("no references", PAGE, [], 0),
        ("one reference too few", PAGE + 1, [8], 0),
        ("one reference too many", PAGE, [8, 9], 0),
        ("part of a reference", PAGE, [8], 1),
        ("half a header", PAGE, [], 96),
        ("no payload", 0, [], 0),
        ("no payload, and a page", 0, [8], 0),
        ("a byte more than the largest payload", MAX_PAYLOAD + 1, [8] * 257, 0),
        ("900 pages", 900 * PAGE, [8] * 900, 0),
        ("almost 4 GiB", 0xFFFFFFFF, [8] * 256, 0),
        ("almost 4 GiB, which wraps to no pages", 0xFFFFFFFF, [], 0),
    ]
    found = [(f"a record with {name}", [record(side, *what)], "Length") for name, *what in wrong]
    for ref in (7, 300_000, 0x7FFFFFFF, 0xFFFFFFFF):
        found.append((f"a reference {ref:#x}", [record(side, PAGE, [ref])], NOT_GRANTED))
    return found


def wrong_pages(side):
    """As wrong_records, with pages of its own."""
    large = f"large {header(side, 3 * PAGE).hex()}"
    return [
        ("pages granted to another domain", [f"lend 3 {OTHER}", large], NOT_GRANTED),
        ("pages that are not granted any more", [f"lend 3 {GONE}", large], NOT_GRANTED),
        ("a page too much", [f"lend 4 {GOOD}", large], "Length"),
    ]


def all_close(side):
    closing_attacks(side, wrong_records(side))
    for name, commands, text in wrong_pages(side):
        closes(side, name, commands, text, grantee=mgmt.domid(HONEST))


@front_case(timeout=600)
def front_records(side):
    """A guest's records of large messages that are wrong close its channel, with one complaint."""
    all_close(side)


@back_case(timeout=600)
def back_records(side):
    """The same of the management VM, against a guest."""
    all_close(side)


@front_case
def front_same_page(side):
    """One page for all of a payload, and the pages of the ring itself, are as good as others."""
    with File("Victim") as victim:
        side.fresh()
        to = message("Victim", vm(0), app_header_length=0, length=4 * PAGE, source_app=mgmt.app_id("Rogue"))
        side.rogue.do(f"lend 4 {GOOD}", f"large {to.encode().hex()}")
        got = victim.read(10)
        wanted = b"".join(bytes([i + 1]) * PAGE for i in range(4))
        check(got and got.payload == wanted, f"pages of its own: {got}")
        refs = [int(ref) for ref in mgmt.xenstore(attacker.front("tx-ring-refs")).split()]
        body = to.encode() + b"".join(ref.to_bytes(4, "little") for ref in [refs[1]] * 4)
        side.rogue.do(f"record {len(body)} 1 {body.hex()}")
        got = victim.read(10)
        check(got and len(got.payload) == 4 * PAGE, f"a page of the ring: {got}")
        check(got and got.payload[:PAGE] == got.payload[PAGE : 2 * PAGE], "the same page is not the same")
        equal("states", (CONNECTED, CONNECTED), states())
        equal("complaints", 0, side.complaints())


@front_case
def front_yanked(side):
    """Pages that are taken back while they are copied end the channel, or arrive; nothing else."""
    side.fresh(again=1)
    large = header(side, 16 * PAGE).hex()
    side.rogue.start(f"yank 500 16 {large}", 15).wait(90)
    check(side.complaints() <= 1, "more than one complaint")
    status = side.rogue.status()
    check(status["sent"] > 0, f"{status}")
    mgmt.note(f"{status['sent']} messages, {status['closings']} channels closed")


def lent():
    """Pages of Dom-M that the attacker has."""
    with File() as f:
        return f.account(f"vm:{mgmt.domid(ATTACKER)}")[0]["pages"]


def fill(payload):
    """Sends the attacker as many of these as it has room for; returns how many."""
    what = message("Whoever", vm(mgmt.domid(ATTACKER)), payload, flags=NO_UNDELIVERABLE)
    with File("Lender", nonblock=True) as sender:
        for taken in range(200):
            try:
                sender.write(what)
            except BlockingIOError:
                return taken
    return 200


@front_case
def front_reads_nothing(side):
    """A guest that takes nothing has its share of pages, and no more, until it goes."""
    side.fresh()
    taken = fill(bytes(MAX_PAYLOAD))
    check(4 <= taken <= 16, f"{taken} of 1 MiB were taken")
    equal("pages that it has", MAX_LENT, lent())
    side.fresh()
    equal("pages that it has", 0, lent())


@front_case
def front_keeps_pages(side):
    """A page that a guest keeps mapped counts as lent, and is not used again, until it lets go."""
    side.fresh(again=1)
    fill(b"\xff" * (16 * PAGE - 100))
    check(lent() > 16, f"it has {lent()} pages")
    side.rogue.do("map 0")
    equal("pages mapped writable", 0, side.rogue.status()["mapped"])
    side.rogue.do("map 1")
    status = side.rogue.status()
    equal("pages mapped", 16, status["mapped"])
    equal("bytes in the last page", PAGE - 100, status["tail"])
    # All others go back, and those that wait for their room, too.
    drained = mgmt.until(lambda: side.rogue.do("drain") or lent() == 16, 20)
    check(drained, f"it has {lent()} pages")
    with File("Other") as other:
        other.write(message("Other", mgmt.SELF, bytes(MAX_PAYLOAD)))
        check(other.read(10) is not None, "another one's message does not arrive")
    # A new channel does not give it more.
    connects = side.rogue.status()["connects"]
    side.rogue.do("record 0 0")
    again = mgmt.until(lambda: side.rogue.status()["connects"] > connects and states() == (CONNECTED, CONNECTED), 20)
    check(again, f"it did not connect again: {states()}")
    equal("pages that it has", 16, lent())
    side.rogue.do("unmap")
    # Those are looked for when it is to be lent more.
    fill(bytes(16 * PAGE))
    drained = mgmt.until(lambda: side.rogue.do("drain") or lent() == 0, 20)
    check(drained, f"it has {lent()} pages")


if __name__ == "__main__":
    attacker.main()
