# SPDX-License-Identifier: GPL-2.0
"""What a header and a ring may not hold, as tables of attacks; and what each attack comes to."""

import time

import mgmt
import xs
from attacker import CLOSED, CONNECTED, FrontSide, nobody, states
from mgmt import NO_UNDELIVERABLE, PRESENCE, UNDELIVERABLE, check, equal

RING = 32768


def patched(side, at, value, **fields):
    data = bytearray(nobody(side, **fields).encode())
    data[at : at + len(value)] = value
    return data.hex()


def little(value, size=4):
    return (value % (1 << 8 * size)).to_bytes(size, "little")


def header_attacks(side):
    """What a header may not say: name, the message in hexadecimal, the complaint."""
    fields = [
        ("version 0", 0, b"\0", "Version"),
        ("version 2", 0, b"\2", "Version"),
        ("version 255", 0, b"\xff", "Version"),
        ("kind 0", 1, b"\0", "Kind"),
        ("kind 200", 1, b"\xc8", "Kind"),
        ("an undeliverable without a reason", 1, bytes([UNDELIVERABLE]), "Reason"),
        ("an undeliverable with a payload", 1, bytes([UNDELIVERABLE, 0, 0, 0, 0, 2, 0]), "Length"),
        ("an unknown flag", 4, little(0x8000, 2), "Flags"),
        ("a reason where there is none", 6, little(1, 2), "Reason"),
        ("an unknown reason", 6, little(999, 2), "Reason"),
        ("a length of 0", 8, little(0), "Length"),
        ("a length that is one too much", 8, little(33), "Length"),
        ("a length that wraps", 8, little(-1), "Length"),
        ("a length that wraps with the header", 8, little(-192), "Length"),
        ("an application header longer than all", 12, little(33), "Length"),
        ("an application header that wraps", 12, little(-1), "Length"),
        ("the first reserved byte", 40, b"\1", "Reserved"),
        ("the last reserved byte", 63, b"\x80", "Reserved"),
        ("no source", 96, bytes(32), "no bridge sends"),
        ("no destination", 160, bytes(32), "no bridge sends"),
    ]
    if isinstance(side, FrontSide):
        fields.append(("a forged presence", 1, bytes([PRESENCE]), "no bridge sends"))
    for name, where in (("source", 64), ("destination", 128)):
        fields += [
            (f"a {name} of an unknown kind", where, b"\xee", "bad message"),
            (f"a {name} of a wrong length", where + 1, b"\xff", "bad message"),
            (f"a reserved byte of the {name}", where + 2, b"\1", "bad message"),
            (f"padding of the {name}", where + 31, b"\1", "bad message"),
            (f"a control character in the {name}", where + 32, b"\n", "AppId"),
            (f"an App_ID without an end in the {name}", where + 32, b"A" * 32, "AppId"),
            (f"bytes behind the App_ID of the {name}", where + 63, b"A", "AppId"),
        ]
    return [(name, [f"send {patched(side, at, value)}"], text) for name, at, value, text in fields]


def ring_attacks(side):
    """What a ring may not hold: name, commands, the complaint."""
    good = nobody(side, flags=NO_UNDELIVERABLE).encode().hex()
    loud = nobody(side).encode().hex()
    lengths = [
        ("no bytes", 0, "Length"),
        ("1 byte", 1, "Length"),
        ("a byte less than a header", 191, "Length"),
        ("more than the bridge takes", 192 + 8193, "Length"),
        ("a byte more than the ring carries", RING // 2 - 7, "Length"),
        ("the whole ring", RING, "Length"),
        ("almost 4 GiB", 0xFFFFFFF8, "Length"),
        ("4 GiB", 0xFFFFFFFF, "Length"),
    ]
    attacks = [(f"a record of {name}", [f"record {length} 0"], text) for name, length, text in lengths]
    attacks += [
        ("an unknown format", [f"record {len(good) // 2} 77 {good}"], "Format"),
        ("the last format", [f"record {len(good) // 2} 4294967295 {good}"], "Format"),
        ("prod one record beyond the ring", [f"prod {RING + 8}"], "Index"),
        ("prod 2 GiB ahead", ["prod 2147483647"], "Index"),
        ("prod before the beginning", ["prod -8"], "Index"),
        ("prod that falls back", [f"send {good}"] * 3 + ["prod -704"], "Index"),
        ("prod in the middle of a record's header", ["prod 4"], "Length"),
        ("prod at an odd byte", ["prod 1"], "Length"),
        ("prod that shows half a record", [f"hide 232 0 {good}", "prod -8"], "Length"),
        # The first makes the other end want room, so that it looks.
        ("cons beyond prod", [f"flood 300 0 {loud}", "cons 8000000", f"flood 100 0 {loud}"], "Index"),
        ("cons that falls back", [f"flood 200 1 {loud}", f"flood 200 0 {loud}", "cons -99000"], "Index"),
    ]
    return attacks


def note(word, addresses=b"", priority_class=0, returns=0):
    """A command that sends a note."""
    data = bytes([word, priority_class, returns, 0, 0, 0, 0, 0]) + addresses
    return f"record {len(data)} 2 {data.hex()}"


PAUSING, HOLD, GO_ON, READY = 1, 2, 3, 4


def flow(side, number=0):
    """The addresses of a flow."""
    return nobody(side, sequence=number).encode()[64:188] + little(number)


def note_attacks(side):
    """What a note may not be: name, commands, the complaint."""
    addresses = flow(side)
    unknown = [(f"note {word}", [note(word, addresses)]) for word in (0, 5, 255)]
    unknown += [
        ("an empty note", ["record 0 2"]),
        ("a note of 7 bytes", ["record 7 2 01000000000000"]),
        ("half an address", [note(HOLD, addresses[:64])]),
        ("one more byte", [note(HOLD, addresses + b"\0")]),
        ("a note as long as a message", [note(HOLD, addresses + bytes(100))]),
        ("a hold without a flow", [note(HOLD)]),
        ("a class that there is not", [note(HOLD, addresses, 4)]),
        ("a kind that there is not", [note(HOLD, addresses, 0, 2)]),
        ("a pause of a flow", [note(PAUSING, addresses)]),
        ("a pause of a class", [note(PAUSING, b"", 1)]),
        ("a pause of what comes back", [note(PAUSING, b"", 0, 1)]),
        ("ready for a flow", [note(READY, addresses)]),
        ("ready for a class", [note(READY, b"", 1)]),
        ("a reserved byte", ["record 8 2 0100000000000001"]),
    ]
    attacks = [(name, commands, "Length" if "empty" in name else "unknown note") for name, commands in unknown]
    many = [note(HOLD, flow(side, number)) for number in range(33)]
    return attacks + [("33 flows held", many, "more flows")]


def harmless_notes(side):
    """Holds and goes on as it likes, which is nobody's loss but its own."""
    one, other = flow(side, 1), flow(side, 2)
    stays(side, "a flow held twice", note(HOLD, one), note(HOLD, one))
    stays(side, "a flow that goes on and was not held", note(GO_ON, one))
    stays(side, "ready when nobody waits for that, and again", note(READY), note(READY))
    stays(side, "32 flows held, in each class", *(note(HOLD, flow(side, n), n % 4) for n in range(32)))
    commands = [note(word, addresses) for word in (HOLD, GO_ON) for addresses in (one, other)]
    stays(side, "held and gone on with, again and again", *(20 * commands))


def closes(side, name, commands, text, **knobs):
    """The attack ends its channel, with one complaint that says why."""
    side.fresh(**knobs)
    side.rogue.do(*commands)
    ended = mgmt.until(lambda: states() == (CLOSED, CLOSED), 10)
    error = xs.here(side.error_node)
    check(ended, f"{name}: the channel is in states {states()}, not closed")
    check(error and text in error, f"{name}: the error node says {error!r}, not {text!r}")
    equal(f"{name}: complaints in the log", 1, side.complaints())


def closing_attacks(side, attacks):
    began = time.monotonic()
    for name, commands, text in attacks:
        closes(side, name, commands, text)
    mgmt.note(f"{len(attacks)} attacks in {time.monotonic() - began:.0f} s; the last error: {xs.here(side.error_node)}")


def stays(side, name, *commands, **knobs):
    """The attack has no effect: the channel is open, and nobody complains."""
    side.fresh(**knobs)
    side.rogue.do(*commands)
    time.sleep(0.2)
    equal(f"{name}: states", (CONNECTED, CONNECTED), states())
    equal(f"{name}: complaints in the log", 0, side.complaints())
