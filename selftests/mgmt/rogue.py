#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Hostile peers: mgmt_rogue.ko in a guest attacks Dom0's backend, and in Dom0 a guest's frontend.

    rogue.py [CASE...]

MGMT_ROGUE names the guest that attacks (the second); the first one's messages are to pass meanwhile.
"""

import os
import random
import statistics
import subprocess
import time

import mgmt
import xs
from mgmt import (
    NO_UNDELIVERABLE, PRESENCE, UNDELIVERABLE, Bystander, Failure, File, Message,
    app_id, case, check, equal, guests, message, vm,
)  # fmt: skip

ATTACKER = os.environ.get("MGMT_ROGUE") or (guests()[1] if len(guests()) > 1 else "")
HONEST = next((name for name in guests() if name != ATTACKER), "")
KO = "/lab/mgmt_rogue.ko"
KNOBS = {"order": 3, "grants": 0, "grantee": 0, "port": 0xFFFFFFFF, "stop": 0, "again": 0, "hold": 0}
READONLY, OTHER, SAME, GONE, SWAPPED = 1, 2, 3, 4, 5
SILENT, NODES, OFFERED = 1, 2, 3
RING = 32768
# Of the throughput without the attack.
ENOUGH = 0.8

INITIALISED, CONNECTED, CLOSED = "3", "4", "6"


def front(node="", name=None):
    return f"/local/domain/{mgmt.domid(name or ATTACKER)}/device/mgmt/0{node and '/' + node}"


def back(node="", name=None):
    return f"/local/domain/0/backend/mgmt/{mgmt.domid(name or ATTACKER)}/0{node and '/' + node}"


def states(name=None):
    """Frontend's and backend's."""
    return xs.here(front("state", name)), xs.here(back("state", name))


def wait_states(wanted, text, timeout=10):
    if not mgmt.until(lambda: states() == wanted, timeout):
        raise Failure(f"{text}: frontend and backend are in states {states()}, not {wanted}")


def shell(script, timeout=120):
    status, output = mgmt.shell(script, timeout=timeout)
    check(status == 0, f"{script}: {output}")
    return output


def held():
    return shell("held").strip()


def grants():
    """Entries of the attacker's grant table, as Xen counts them."""
    for line in shell("grants").splitlines():
        number, count = line.split()
        if int(number) == mgmt.domid(ATTACKER):
            return int(count)
    raise Failure("Xen does not list the grants")


class Domain:
    """Where the rogue is: a guest, or Dom0."""

    def __init__(self, name=None):
        self.name = name
        self.knobs = None

    def sh(self, script, timeout=60):
        if self.name:
            return mgmt.in_guest(self.name, script, timeout)
        return mgmt.run("sh", "-c", script, timeout=timeout)

    def must(self, script, timeout=60):
        status, output = self.sh(script, timeout)
        if status:
            raise Failure(f"{self.name or 'Dom0'}: {script[:200]}: status {status}: {output}")
        return output

    def load(self, role, **knobs):
        self.must(f"grep -q '^mgmt_rogue ' /proc/modules || insmod {KO} role={role}")
        self.knobs = None
        self.set(**knobs)

    def unload(self):
        self.must("! grep -q '^mgmt_rogue ' /proc/modules || rmmod mgmt_rogue")

    def set(self, **knobs):
        values = {**KNOBS, **knobs}
        if values != self.knobs:
            writes = "; ".join(f"echo {value} >{knob}" for knob, value in values.items())
            self.must(f"cd /sys/kernel/debug/mgmt_rogue && {{ {writes}; }}")
        self.knobs = values

    def do(self, *commands, timeout=60):
        """Runs the rogue's commands. One whose channel was closed meanwhile is no error."""
        writes = "\n".join(f"echo {command} >command" for command in commands)
        log = "/tmp/rogue.errors"
        self.must(f"cd /sys/kernel/debug/mgmt_rogue\n{{ {writes}\n}} 2>{log}\n! grep nvalid {log}", timeout)

    def start(self, command, seconds):
        """Repeats a command for so many seconds, whatever becomes of the channel; returns the process."""
        script = (
            f"cd /sys/kernel/debug/mgmt_rogue; end=$(($(date +%s) + {seconds}))\n"
            f"while [ $(date +%s) -lt $end ]; do echo {command} >command || sleep 0.01; done 2>/dev/null"
        )
        run = ["guest", "-T", str(seconds + 60), self.name, script] if self.name else ["sh", "-c", script]
        return subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def status(self):
        lines = self.must("cat /sys/kernel/debug/mgmt_rogue/status").splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}

    def received(self):
        """The next record of the other end: length, format, the rest."""
        data = bytes.fromhex(self.must("cat /sys/kernel/debug/mgmt_rogue/rx").strip())
        return (int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little"), data[8:]) if data else None


class Log:
    """Dom0's kernel log from here on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def count(self, text, but):
        """How many lines have it, and not the other; closes the log."""
        found = 0
        while True:
            try:
                line = os.read(self.fd, 8192).decode(errors="replace")
                found += text in line and but not in line
            except BlockingIOError:
                os.close(self.fd)
                return found
            except BrokenPipeError:
                continue


# -- the two sides --


class FrontSide:
    """The rogue is the frontend in a guest, the victim is Dom0's backend."""

    def __init__(self):
        self.rogue = Domain(ATTACKER)
        self.source = vm(mgmt.domid(ATTACKER))
        self.victim = vm(0)
        self.error_node = f"/local/domain/0/error/backend/mgmt/{mgmt.domid(ATTACKER)}/0/error"
        self.closed = (CLOSED, CLOSED)

    def begin(self):
        status, output = mgmt.shell(f"ready; unload {ATTACKER}")
        if status:
            raise Failure(f"not ready: {output}")
        self.rogue.load("front")

    def end(self):
        self.rogue.unload()
        shell(f"mgmtctl detach --if-needed {ATTACKER}; ready; round_trip {ATTACKER} 2; round_trip {HONEST} 2")

    def rebind(self, patient=True):
        device = f"mgmt-{mgmt.domid(ATTACKER)}-0"
        try:
            with open("/sys/bus/xen-backend/drivers/mgmtback/unbind", "w") as f:
                f.write(device)
            # An offer that the last backend refused is not to be the first that this one sees.
            if patient:
                mgmt.until(lambda: xs.here(front("state")) not in (INITIALISED, CONNECTED), 5)
            with open("/sys/bus/xen-backend/drivers/mgmtback/bind", "w") as f:
                f.write(device)
        except OSError:
            # Some states of the frontend make the backend leave, as those of a removed device do.
            check(not os.path.exists(f"/sys/bus/xen-backend/devices/{device}"), f"{device} cannot be bound")
            shell(f"mgmtctl detach --if-needed {ATTACKER}; mgmtctl attach {ATTACKER}")

    def fresh(self, wait=(CONNECTED, CONNECTED), **knobs):
        """A backend that was bound just now and has not complained yet."""
        self.rogue.set(**knobs)
        xs.here(os.path.dirname(self.error_node), xs.REMOVE)
        self.rebind()
        if wait:
            wait_states(wait, f"connecting with {knobs}")
        self.log = Log()

    def complaints(self):
        # The kernel's own line of a grant that it cannot map comes with ours.
        return self.log.count(f"mgmt-{mgmt.domid(ATTACKER)}-0:", but="mapping in shared page")


class BackSide:
    """The rogue is the backend in Dom0, for one guest; the victim is that guest's frontend."""

    def __init__(self):
        self.rogue = Domain()
        self.guest = Domain(ATTACKER)
        self.source = vm(0)
        self.victim = vm(mgmt.domid(ATTACKER))
        self.error_node = f"/local/domain/{mgmt.domid(ATTACKER)}/error/device/mgmt/0/error"
        self.closed = (CLOSED, CLOSED)
        self.device = f"mgmt-{mgmt.domid(ATTACKER)}-0"

    def bind(self, driver, action="bind"):
        with open(f"/sys/bus/xen-backend/drivers/{driver}/{action}", "w") as f:
            f.write(self.device)

    def begin(self, **knobs):
        mgmt.ready()
        self.rogue.load("back", **knobs)
        self.bind("mgmtback", "unbind")
        self.bind("mgmt_rogue")

    def end(self):
        self.rogue.unload()
        self.bind("mgmtback")
        shell(f"ready; round_trip {ATTACKER} 2; round_trip {HONEST} 2")

    LINES = "dmesg | grep -c 'mgmt-0:' || :"

    def rebind(self):
        """Returns how many complaints there were."""
        bind = "cd /sys/bus/xen/drivers/mgmtfront && echo mgmt-0 >unbind && echo mgmt-0 >bind"
        return int(self.guest.must(f"{self.LINES}; {bind}"))

    def fresh(self, wait=(CONNECTED, CONNECTED), **knobs):
        self.rogue.set(**knobs)
        self.before = self.rebind()
        xs.here(os.path.dirname(self.error_node), xs.REMOVE)
        if wait:
            wait_states(wait, f"connecting with {knobs}")

    def complaints(self):
        return int(self.guest.must(self.LINES)) - self.before


# -- attacks on the ring --


def nobody(side, **fields):
    """A message to an App_ID that nobody has bound."""
    payload = fields.pop("payload", bytes(32))
    return message("Nobody", side.victim, payload, source_component=side.source, source_app=app_id("Rogue"), **fields)


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
        ("prod that falls back", [f"send {good}"] * 3 + ["prod -240"], "Index"),
        ("prod in the middle of a record's header", ["prod 4"], "Length"),
        ("prod at an odd byte", ["prod 1"], "Length"),
        ("prod that shows half a record", [f"hide 232 0 {good}", "prod -8"], "Length"),
        # The first makes the other end want room, so that it looks.
        ("cons beyond prod", [f"flood 300 0 {loud}", "cons 8000000", f"flood 100 0 {loud}"], "Index"),
        ("cons that falls back", [f"flood 200 1 {loud}", f"flood 200 0 {loud}", "cons -99000"], "Index"),
    ]
    return attacks


def closes(side, name, commands, text, **knobs):
    """The attack ends its channel, with one complaint that says why."""
    side.fresh(**knobs)
    side.rogue.do(*commands)
    ended = mgmt.until(lambda: states() == side.closed, 10)
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


class Attacks:
    """One side's attack, with another guest's traffic beside it; all that was held is given back."""

    def __init__(self, side, bystander=True):
        self.side = side
        self.bystander = Bystander(HONEST) if bystander else None

    def __enter__(self):
        mgmt.ready()
        self.held, self.grants = held(), grants()
        try:
            self.side.begin()
        except BaseException:
            self.side.end()
            raise
        if self.bystander:
            self.bystander.__enter__()
        return self.side

    def __exit__(self, *error):
        if self.bystander:
            self.bystander.__exit__(*error)
        self.side.end()
        check(mgmt.until(lambda: held() == self.held, 15), f"Dom0 held {self.held}, now {held()}")
        # What the other end still mapped comes back after a while.
        check(mgmt.until(lambda: grants() <= self.grants, 30), f"grants: {self.grants} before, {grants()} now")


@case(timeout=300)
def front_headers():
    """Frontend: every field of a header that may not be so closes the channel, with one complaint."""
    with Attacks(FrontSide()) as side:
        closing_attacks(side, header_attacks(side))


@case(timeout=300)
def front_rings():
    """Frontend: wild indices, lengths and formats close the channel, with one complaint."""
    with Attacks(FrontSide()) as side:
        closing_attacks(side, ring_attacks(side))


@case(timeout=300)
def front_races():
    """Frontend: torn records, jumping indices and scribbled rings, again and again."""
    with Attacks(FrontSide()) as side:
        torn = nobody(side, payload=bytes(500), flags=NO_UNDELIVERABLE).encode().hex()
        for command in (f"torn 1000 {torn}", "jump 1000", "scribble 1000"):
            side.fresh(again=1)
            before = side.rogue.status()
            side.rogue.start(command, 5).wait(60)
            after = side.rogue.status()
            mgmt.note(
                f"{command.split()[0]}: {after['sent'] - before['sent']} records, "
                f"{after['closings'] - before['closings']} channels closed"
            )
            check(after["closings"] > before["closings"], f"{command.split()[0]}: it never closed the channel")
            # A connection attempt may fail too, in the middle of it all; it is said once all the same.
            check(side.complaints() <= 1, f"{command.split()[0]}: more than one complaint")


@case(timeout=200)
def front_forged_sources():
    """Frontend: whoever it claims to be, its own name is on what arrives."""
    with Attacks(FrontSide()) as side, File("RogueVictim") as victim:
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
        equal("states", (CONNECTED, CONNECTED), states())
        equal("complaints", 0, side.complaints())


@case(timeout=200)
def front_padding():
    """Frontend: nothing of Dom0's memory, or of an earlier record, is in what it gets."""
    with Attacks(FrontSide(), bystander=False) as side, File("RoguePadding") as sender:
        for size in range(0, 10):
            side.fresh()
            side.rogue.do("taint")
            sender.write(message("Whoever", vm(mgmt.domid(ATTACKER)), b"x" * size))
            record = None

            def arrived():
                nonlocal record
                record = side.rogue.received()
                return record

            if not check(mgmt.until(arrived, 5), f"{size} bytes: nothing arrived"):
                continue
            length, form, rest = record
            equal(f"{size} bytes: length and format", (192 + size, 0), (length, form))
            equal(f"{size} bytes: padding", bytes(-length % 8), rest[length:])
            equal(f"{size} bytes: reserved", bytes(24), rest[40:64])
            sender.read(0.1)


@case(timeout=300)
def front_without_effect():
    """Frontend: lying, deaf, stuck and storming ones hurt nobody but themselves."""
    with Attacks(FrontSide()) as side:
        quiet = nobody(side, flags=NO_UNDELIVERABLE).encode().hex()
        loud = nobody(side).encode().hex()
        stays(side, "undeliverables, claimed as read", f"flood 1000 1 {loud}")
        stays(side, "undeliverables, never read", f"flood 1000 0 {loud}")
        queued = link(ATTACKER)["queued_bytes"]
        check(queued <= 2 << 20, f"{queued} bytes wait for a guest that does not read")
        stays(side, "messages to nobody, unwanted back", f"flood 1000 0 {quiet}")
        stays(side, "messages to itself", "flood 1000 0 " + loop(side, mgmt.domid(ATTACKER)))
        stays(side, "messages to the other guest", "flood 1000 1 " + loop(side, mgmt.domid(HONEST)))
        stays(side, "an event storm", "storm 2000")
        stays(side, "no event channel any more", "deaf", f"flood 500 0 {loud}")
        stays(side, "ending grants in use", "revoke")
        equal("pages that it took back while Dom0 maps them", 0, side.rogue.status()["revoked"])


def loop(side, number):
    target = message("Nobody", vm(number), bytes(32), source_component=side.source, source_app=app_id("Rogue"))
    return target.encode().hex()


def link(name):
    with File() as f:
        return f.link(mgmt.domid(name))


@case(timeout=300)
def front_grants():
    """Frontend: rings that Dom0 may not map, may not write, or that are not what they seem."""
    refused = [
        ("read-only grants", {"grants": READONLY}),
        ("grants to another guest", {"grants": OTHER, "grantee": mgmt.domid(HONEST)}),
        ("grants to itself", {"grants": OTHER, "grantee": mgmt.domid(ATTACKER)}),
        ("grants that are gone", {"grants": GONE}),
        ("an event channel that does not exist", {"port": 4000}),
        ("an event channel of no table", {"port": 0x7FFFFFFF}),
        ("Xen's own event channel 0", {"port": 0}),
    ]
    # The first ports of a domain are those of its xenstore and console.
    refused += [(f"event channel {port}, another's", {"port": port}) for port in (1, 2)]
    with Attacks(FrontSide()) as side:
        for name, knobs in refused:
            side.fresh(wait=None, **knobs)
            ended = mgmt.until(lambda: xs.here(side.error_node), 10)
            check(ended, f"{name}: no complaint")
            check(states()[1] != CONNECTED, f"{name}: the backend is connected")
            equal(f"{name}: complaints in the log", 1, side.complaints())
        mgmt.note(f"the last error: {xs.here(side.error_node)}")
        good = nobody(side).encode().hex()
        for name, knobs in (("one page for all", {"grants": SAME}), ("the control page last", {"grants": SWAPPED})):
            for commands in ([f"send {good}"], [f"flood 300 0 {good}"], ["scribble 300"], ["jump 300"]):
                # It connects, or fails to: its pages are not what the protocol wants.
                side.fresh(wait=None, **knobs)
                mgmt.until(lambda: states() == (CONNECTED, CONNECTED), 3)
                side.rogue.do(*commands)
                check(side.complaints() <= 1, f"{name}: more than one complaint")
        side.rogue.set()


@case(timeout=300)
def front_xenstore_storms():
    """Frontend: its nodes written as fast as the kernel can."""
    with Attacks(FrontSide()) as side:
        for node in ("state", "session", "tx-ring-refs", "event-channel"):
            side.fresh(again=1)
            side.rogue.do(f"xenstore 3000 {front(node)}")
            check(side.complaints() <= 1, f"{node}: more than one complaint")
        # Dom0's thread for all devices is not held up.
        storm = side.rogue.start(f"xenstore 1000 {front('state')}", 6)
        shell("mgmtctl status")
        began = time.monotonic()
        side.rebind()
        took = time.monotonic() - began
        check(took < 5, f"Dom0's backend needed {took:.1f} s to be unbound and bound in a storm")
        mgmt.note(f"unbound and bound in {took:.1f} s meanwhile")
        storm.wait(60)


# -- vanishing --

STEPS = [
    ("before it says anything", SILENT, None),
    ("after its nodes, before its state", NODES, None),
    ("after its offer", OFFERED, (INITIALISED, CONNECTED)),
    ("after it has connected", 0, (CONNECTED, CONNECTED)),
]


def reconnects(name):
    """The other guest's device can come and go: Dom0's thread for all devices waits for nobody."""
    Domain(name).must("cd /sys/bus/xen/drivers/mgmtfront && echo mgmt-0 >unbind && echo mgmt-0 >bind")
    check(
        mgmt.until(lambda: states(name) == (CONNECTED, CONNECTED), 15),
        f"{name} cannot connect meanwhile: {states(name)}",
    )


@case(timeout=300)
def front_vanishes():
    """Frontend: the module goes, or the domain is paused, at each step of connecting."""
    with Attacks(FrontSide(), bystander=False) as side:
        for name, step, wanted in STEPS:
            side.fresh(wait=wanted, stop=step)
            mgmt.must("xl", "pause", ATTACKER)
            try:
                reconnects(HONEST)
                shell(f"round_trip {HONEST} 1")
                # And its backend can go without it.
                side.rebind(patient=False)
            finally:
                mgmt.must("xl", "unpause", ATTACKER)
            side.fresh(wait=wanted, stop=step)
            side.rogue.unload()
            equal(f"{name}: complaints in the log", 0, side.complaints())
            check(mgmt.until(lambda: xs.here(back("state")) != CONNECTED, 10), f"{name}: the backend stays connected")
            side.rogue.load("front")
        shell(f"round_trip {HONEST} 2")


@case(timeout=500)
def front_destroyed():
    """Frontend: its domain is destroyed at each step of connecting, and in the middle of an attack."""
    mgmt.ready()
    before = held()
    attacks = [*STEPS, ("in the middle of a flood", 0, (CONNECTED, CONNECTED))]
    with Bystander(HONEST):
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
                    arrived = mgmt.until(lambda: tuple(map(xs.here, nodes)) == wanted, 10)
                    check(arrived, f"{name}: states {tuple(map(xs.here, nodes))}")
                if "flood" in name:
                    flood = message("Nobody", vm(0), bytes(32), source_component=vm(0), source_app=app_id("Rogue"))
                    rogue.start(f"flood 60000 0 {flood.encode().hex()}", 60)
                    time.sleep(1)
            finally:
                mgmt.must("guest-destroy", "doomed")
            check(mgmt.until(lambda: not os.path.exists(device), 20), f"{name}: the device stays")
            mgmt.run("mgmtctl", "detach", "--if-needed", str(number))
    check(mgmt.until(lambda: held() == before, 15), f"Dom0 held {before}, now {held()}")


# -- throughput under attack --


def rate(seconds):
    """Messages per second that Dom0 gets from the honest guest."""
    with File() as f:
        number = mgmt.domid(HONEST)
        first, began = f.link(number)["rx_messages"], time.monotonic()
        time.sleep(seconds)
        return (f.link(number)["rx_messages"] - first) / (time.monotonic() - began)


def rate_during(rogue, command, seconds=3):
    process = rogue.start(command, seconds + 2)
    time.sleep(1)
    result = rate(seconds)
    process.wait(60)
    return result


def honest_stream(count):
    """So many messages of the honest guest to Dom0: the receiver and the sender."""
    sink = subprocess.Popen(
        ["mgmt-test", "--timeout", "700", "sink", "RogueRate", "--count", str(count)], stdout=subprocess.PIPE
    )
    send = f"mgmt-test --timeout 700 flood --app RogueFlood --to RogueRate@mvm --count {count}"
    return sink, subprocess.Popen(["guest", "-T", "720", HONEST, send], stdout=subprocess.DEVNULL)


def all_arrive(count, sink, flood):
    output = sink.communicate(timeout=400)[0].decode()
    flood.wait(60)
    check(f'"received":{count},"lost":0,"late":0,"damaged":0' in output, f"messages were lost: {output}")
    return output


def throughput(side, attacks, repeats=5):
    """Each attack in turn with its control, which takes as much CPU and does not touch the channel."""
    output = all_arrive(4000, *honest_stream(4000))
    fastest = int(output.split('"per_second":')[1].split(",")[0])
    mgmt.note(f"{fastest} messages/s of 64 bytes with no attacker")
    # Enough for all windows; what is left then is waited for.
    count = fastest * len(attacks) * repeats * 2 * 7
    stream = honest_stream(count)
    check(mgmt.until(lambda: rate(0.5) > 0, 30), "no traffic")
    for name, control, attack in attacks:
        quiet, loud = [], []
        for _ in range(repeats):
            if states() != (CONNECTED, CONNECTED):
                side.fresh(again=1)
            quiet.append(rate_during(side.rogue, control))
            loud.append(rate_during(side.rogue, attack))
        kept = statistics.median(loud) / max(statistics.median(quiet), 1)
        mgmt.note(
            f"{name}: {statistics.median(quiet):.0f} messages/s without, {statistics.median(loud):.0f} with: "
            f"{100 * kept:.0f} % ({' '.join(f'{q:.0f}/{l:.0f}' for q, l in zip(quiet, loud))})"
        )
        check(kept >= ENOUGH, f"{name}: {100 * kept:.0f} % of the throughput is left")
    check(stream[1].poll() is None, "the traffic ended before the attacks")
    all_arrive(count, *stream)


@case(timeout=900)
def front_throughput():
    """Frontend: an honest guest keeps 80 % of its throughput under each attack that lasts."""
    with Attacks(FrontSide(), bystander=False) as side:
        side.fresh(again=1)
        loud = nobody(side).encode().hex()
        quiet = nobody(side, flags=NO_UNDELIVERABLE).encode().hex()
        torn = nobody(side, payload=bytes(500), flags=NO_UNDELIVERABLE).encode().hex()
        other = f"xenstore 500 /local/domain/{mgmt.domid(ATTACKER)}/data/rogue"
        throughput(side, [
            ("events", "burn 500", "storm 500"),
            ("undeliverables", "burn 500", f"flood 500 1 {loud}"),
            ("messages to nobody", "burn 500", f"flood 500 1 {quiet}"),
            ("a reader that is stuck", "burn 500", f"flood 500 0 {loud}"),
            ("torn records", "burn 500", f"torn 500 {torn}"),
            ("xenstore states", other, f"xenstore 500 {front('state')}"),
        ])  # fmt: skip


# -- the rogue backend --


@case(timeout=400)
def back_headers():
    """Backend: every field of a header that may not be so closes the channel, with one complaint."""
    with Attacks(BackSide()) as side:
        closing_attacks(side, header_attacks(side))


@case(timeout=300)
def back_rings():
    """Backend: wild indices, lengths and formats close the channel, with one complaint."""
    with Attacks(BackSide()) as side:
        closing_attacks(side, ring_attacks(side))


@case(timeout=300)
def back_without_effect():
    """Backend: floods and storms do not hang the guest, and it gets nothing of the guest's memory."""
    with Attacks(BackSide()) as side:
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
            side.guest.must("true", 20)
            mgmt.note(f"{name}: the guest answers after {time.monotonic() - began:.1f} s")
            storm.wait(30)
            equal(f"{name}: states", (CONNECTED, CONNECTED), states())
            equal(f"{name}: complaints in the log", 0, side.complaints())
        for command in (f"torn 2000 {loud}", "jump 2000", "scribble 2000"):
            side.fresh()
            side.rogue.do(command)
            check(side.complaints() <= 1, f"{command.split()[0]}: more than one complaint")


@case(timeout=300)
def back_xenstore():
    """Backend: garbage in its nodes, storms, and states in every order."""
    garbage = [
        ("protocol", ["2", "", "one", "-1", None]),
        ("max-ring-page-order", ["-1", "", "4294967296", "x", None]),
        ("epoch", ["", "-1", "99999999999", None]),
    ]
    good = {"protocol": "1", "max-ring-page-order": "3", "epoch": "5", "vm-id": "1", "mvm-id": "0", "mvm-ip": "0" * 32}
    with Attacks(BackSide()) as side:
        for node, values in garbage:
            for value in values:
                xs.here(back("state"), "1")
                side.fresh(wait=None, stop=SILENT)
                for name, text in {**good, node: value}.items():
                    if text is None:
                        xs.here(back(name), xs.REMOVE)
                    else:
                        xs.here(back(name), text)
                xs.here(back("state"), "2")
                check(mgmt.until(lambda: xs.here(side.error_node), 10), f"{node} = {value!r}: no complaint")
                check(xs.here(front("state")) != INITIALISED, f"{node} = {value!r}: it offers rings all the same")
                equal(f"{node} = {value!r}: complaints in the log", 1, side.complaints())
        # Names that it has to read when it connects, and afterwards.
        xs.here(back("state"), "1")
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
        side.guest.must("true", 20)


@case(timeout=300)
def back_keeps_the_rings():
    """Backend: pages that it keeps mapped are not used for anything else before it lets go."""
    with Attacks(BackSide(), bystander=False) as side:
        side.fresh(hold=1)
        side.rebind()
        check(mgmt.until(lambda: side.rogue.status()["held"] == 18, 10), f"{side.rogue.status()}")
        # A lot of memory, all of it written.
        side.guest.must("dd if=/dev/urandom of=/tmp/fill bs=1M count=50 2>/dev/null; rm /tmp/fill", 60)
        status = side.rogue.status()
        equal("pages that it keeps", 18, status["held"])
        equal("bytes that changed in them", 0, status["changed"])
        check(grants() > 0, "no grants")
        side.rogue.set()
        side.rogue.do("release")


@case(timeout=300)
def back_vanishes():
    """Backend: it goes at each step of connecting; the guest connects to the next one."""
    with Attacks(BackSide(), bystander=False) as side:
        steps = [("silent", SILENT), ("mapped, not connected", NODES), ("deaf to the offer", OFFERED), ("up", 0)]
        for name, step in steps:
            side.fresh(wait=None, stop=step)
            time.sleep(0.5)
            side.rogue.unload()
            side.bind("mgmtback")
            check(mgmt.until(lambda: states() == (CONNECTED, CONNECTED), 10), f"{name}: {states()} with the next one")
            shell(f"round_trip {ATTACKER} 1")
            side.rogue.load("back")
            side.bind("mgmtback", "unbind")
            side.bind("mgmt_rogue")


@case
def no_trouble():
    """No kernel complained"""
    for name in ("dom0", *guests()):
        status, output = mgmt.shell(f"on {name} dmesg | grep -E -A 12 \"$TROUBLE\" && exit 1; true")
        check(status == 0, f"{name}: {output}")


if __name__ == "__main__":
    if not os.path.exists(KO):
        print("TAP version 13\n1..0 # SKIP no mgmt_rogue.ko")
        raise SystemExit(4)
    if len(guests()) > 1:
        mgmt.ready()
    mgmt.main()
