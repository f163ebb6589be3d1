#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The hardware M-channel: the BMC as a component, for Dom0, and for guests by rules and through a broker."""

import functools
import os
import re
import struct
import threading
import time

import ipmi
import mgmt
from ipmi import bmc, ipmitool
from mgmt import (
    REPLY, REQUEST, UNDELIVERABLE, File, GuestFile, case, check, equal, guests, message, note,
)  # fmt: skip

# The first byte of a reply.
ANSWERED, MALFORMED, REFUSED, BUSY, ABSENT, TIMED_OUT, NONSENSE, RESETTING, BROKEN, DIFFERS = range(10)
POWER_READING = bytes([1])
GET_DEVICE_ID, SELF_TEST = bytes([0x06, 0x01]), bytes([0x06, 0x04])
COLD_RESET, POWER_OFF = bytes([0x06, 0x02]), bytes([0x00, 0x02, 0])
PASSED = b"\x55\x00"
# Requests of one component at the same time.
EACH = 16
GUEST = guests()[0] if guests() else ""


@functools.cache
def serial():
    with open("/sys/class/dmi/id/product_serial", encoding="ascii") as f:
        return f.read().strip()


def hardware():
    return mgmt.hardware(serial().encode())


def load():
    if not os.path.isdir("/sys/module/mgmt_ipmi"):
        mgmt.must("insmod", "/lab/mgmt_ipmi.ko")


def hw_case(function):
    """A case with the module loaded, that leaves the BMC without faults."""

    @functools.wraps(function)
    def run():
        ipmi.need_external()
        load()
        try:
            function()
        finally:
            bmc("clear")

    return case(run, timeout=300)


class Asker(File):
    """Asks the hardware."""

    def __init__(self, name):
        super().__init__(name)
        self._next = 0

    def send(self, app, payload, deadline=30000):
        """Returns the correlation."""
        self._next += 1
        self.write(
            message(app, hardware(), payload, flags=REQUEST, correlation=self._next, deadline_ms=deadline)
        )  # fmt: skip
        return self._next

    def receive(self, seconds=60):
        """(correlation, status, completion code, data) of the next reply."""
        reply = self.read(seconds * mgmt.PATIENCE)
        if reply is None:
            raise mgmt.Failure(f"no answer within {seconds} s")
        equal("kind", REPLY, reply.kind)
        equal("from", hardware(), reply.source_component)
        return reply.correlation, reply.payload[0], reply.payload[1], reply.payload[2:]

    def ask(self, app, payload, deadline=30000):
        """(status, completion code, data)."""
        number = self.send(app, payload, deadline)
        correlation, *answer = self.receive()
        equal("correlation", number, correlation)
        return tuple(answer)


def mgmtctl(*arguments, guest=None):
    """Status and output of mgmtctl ipmi."""
    if guest:
        return mgmt.in_guest(guest, f"mgmtctl ipmi --at hw:{serial()} {' '.join(arguments)}")
    return mgmt.run("mgmtctl", "ipmi", *arguments)


def shows(*arguments):
    """What mgmtctl ipmi prints, by the first word of the line."""
    code, output = mgmtctl(*arguments)
    check(code == 0, f"mgmtctl ipmi {' '.join(arguments)}: {output}")
    return {line.split()[0]: line.split(None, 1)[-1].strip() for line in output.splitlines() if line.strip()}


def answers(asker, seconds=30):
    """The BMC answers within this time; until then there are errors, and no silence."""
    end = time.monotonic() + seconds * mgmt.PATIENCE
    while (got := asker.ask("IPMI", SELF_TEST)) != (ANSWERED, 0, PASSED):
        if time.monotonic() > end:
            raise mgmt.Failure(f"no good answer within {seconds} s, but {got}")
        time.sleep(0.2)


@case
def ready():
    """The modules are loaded, the guests are connected"""
    mgmt.ready()


@hw_case
def found():
    """The hardware is found by the machine's serial number"""
    for app in ("Power", "Sensors", "SEL", "Chassis", "Chassis.Control", "IPMI", "IPMI.Admin", "IPMI.Events"):
        output = mgmt.must("mgmtctl", "discover", app)
        check(f"{app}@hw:{serial()}" in output.split(), f"{app}: {output}")


@hw_case
def power():
    """Watts as ipmitool reads them"""
    ours = shows("power")
    reading = ipmitool("dcmi", "power", "reading")[1]
    theirs = re.search(r"Instantaneous power reading: *(\d+) Watts", reading)
    # The model's noise has a deviation of 1 W.
    close = theirs and abs(int(theirs[1]) - int(ours["now"].split()[0])) <= 6
    check(close, f"{ours}, but {reading}")
    equal("unit", "W", ours["now"].split()[1])


@hw_case
def limit():
    """A power limit is set, and read back, as ipmitool reads it"""
    set_to = shows("limit", "--watts", "150", "--correction", "2000", "--sampling", "1", "--on")
    wanted = {"holds": "yes", "limit": "150 W", "correction": "2000 ms", "sampling": "1 s", "exceeded": "log"}
    equal("set", wanted, set_to)
    output = ipmitool("dcmi", "power", "get_limit")[1]
    for text in ("150 Watts", "2000 milliseconds", "Power Limit Active"):
        check(text in " ".join(output.split()), f"no {text} in {output}")
    equal("off", {**wanted, "holds": "no"}, shows("limit", "--off"))
    code, output = mgmtctl("limit", "--watts", "20")
    check(code == 1 and "0x84" in output, f"less than idle: {code}, {output}")


@hw_case
def sensors_log_chassis():
    """Sensors, the log and the chassis are read; the chassis does what it is told by its own App_ID"""
    bmc("inlet 30")
    code, output = mgmtctl("sensors")
    check(code == 0 and "Power" in output and re.search(r"Inlet Temp +30 °C", output), f"sensors: {output}")
    bmc("inlet 22")
    bmc("event 0x01 2 0x01 0x57 40 38")
    code, output = mgmtctl("sel")
    check(code == 0 and "01 02 01 57 28 26" in output, f"sel: {output}")
    equal("power", "on", shows("chassis")["power"])
    equal("soft off", 0, mgmtctl("chassis", "soft-off")[0])
    equal("what the chassis was asked", "5", ipmi.status()["chassis"])


@hw_case
def raw():
    """Raw requests that change nothing pass; the others are refused, but by IPMI.Admin"""
    with Asker("Asker") as asker:
        equal("self test", (ANSWERED, 0, PASSED), asker.ask("IPMI", SELF_TEST))
        equal("no such command", (ANSWERED, 0xC1, b""), asker.ask("IPMI.Admin", bytes([0x3E, 0x77])))
        # Chassis control, reset, firmware, a user's password, clearing the log, a maker's.
        for request in (POWER_OFF, COLD_RESET, b"\x08\x00", b"\x06\x47\x02\x02", b"\x0a\x47", b"\x2e\x01\xd9\x7e\0"):
            equal(f"{request.hex()}", (REFUSED, 0, b""), asker.ask("IPMI", request))
        equal("power off", (ANSWERED, 0, b""), asker.ask("IPMI.Admin", POWER_OFF))
        equal("what the chassis was asked", "0", ipmi.status()["chassis"])
        for app, payload in (("Power", b""), ("Power", b"\x63"), ("IPMI", b"\x06"), ("IPMI", b"\x07\x01"), ("SEL", bytes(300))):
            equal(f"{app} {payload[:4].hex()}", (MALFORMED, 0, b""), asker.ask(app, payload))
    code, output = mgmtctl("raw", "0x06", "0x04")
    equal("mgmtctl raw", (0, "00 55 00"), (code, output.strip()))
    code, output = mgmtctl("raw", "0", "2", "0")
    check(code == 1 and "does not pass" in output, f"raw power off: {code} {output}")


@hw_case
def guests_by_rules():
    """A guest reads watts through a broker, who changes them, and is refused the rest by a rule with a name"""
    name = f"vm:{mgmt.domid(GUEST)}"
    with File() as rules:
        rules.load_policy("")
        for request in ("power", "raw 6 1"):
            code, output = mgmtctl(*request.split(), guest=GUEST)
            check(code == 1 and "denied by a rule" in output, f"by default, {request}: {code} {output}")
        explained(name, "Power", "deny", "guest-to-hardware")

        rules.load_policy(f"through Virtual@mvm {name} -> Power@hw:*")
        with Asker("Virtual") as broker:
            serving = threading.Thread(target=virtualize, args=(broker,))
            serving.start()
            code, output = mgmtctl("power", guest=GUEST)
            serving.join(60 * mgmt.PATIENCE)
        virtual = re.search(r"^now +(\d+) W$", output, re.M)
        if check(code == 0 and virtual, f"through the broker: {code} {output}"):
            # The broker gives it half of what is drawn.
            watts = int(shows("power")["now"].split()[0])
            check(abs(int(virtual[1]) - watts / 2) <= 6, f"{virtual[1]} W in the guest, {watts} W in Dom0")
        explained(name, "Power", "through", "line 1")
        code, output = mgmtctl("raw", "6", "1", guest=GUEST)
        check(code == 1 and "denied by a rule" in output, f"raw: {code} {output}")
        explained(name, "IPMI", "deny", "guest-to-hardware")

        rules.load_policy(f"allow {name} -> Sensors@hw:{serial()}")
        code, output = mgmtctl("sensors", guest=GUEST)
        check(code == 0 and "Inlet Temp" in output, f"passed through: {code} {output}")
        rules.load_policy(mgmt.OPEN_POLICY)


def virtualize(broker):
    """Answers a guest's question for power with half of what the platform draws."""
    question = broker.read(30 * mgmt.PATIENCE)
    if not check(question is not None, "the broker hears nothing"):
        return
    equal("what it is asked, and meant for", (POWER_READING, hardware()), (question.payload, question.component))
    status, code, data = broker.ask("Power", POWER_READING)
    halves = struct.pack("<4H", *(watts // 2 for watts in struct.unpack("<4H", data[:8])))
    broker.write(
        message(
            question.source_app, question.source_component, bytes([status, code]) + halves + data[8:],
            kind=REPLY, correlation=question.correlation,
        )
    )  # fmt: skip


def explained(source, app, verdict, why):
    text = mgmt.must("mgmtctl", "policy", "explain", f"Asker@{source}", f"{app}@hw:{serial()}", "data")
    check(text.startswith(verdict) and why in text, f"explain {app}: expected {verdict}, {why}; got: {text}")


@hw_case
def events():
    """An event of the BMC reaches who listens, in Dom0, and in a guest only by a rule"""
    with File("IPMI.Events") as here, GuestFile(GUEST, "IPMI.Events") as there, File() as rules:
        while here.read(0.5):
            pass  # earlier ones
        rules.load_policy("deny hw:* -> vm:*")
        bmc("event 0x01 2 0x01 0x57 40 38")
        got = here.read(30 * mgmt.PATIENCE)
        if check(got is not None, "no event"):
            equal("from", hardware(), got.source_component)
            equal("event", bytes([0x04, 0x01, 2, 0x01, 0x57, 40, 38]), got.payload[9:16])
        equal("in a guest", None, there.read(1))
        rules.load_policy("allow hw:* -> IPMI.Events@vm:*")
        bmc("event 0x01 2 0x01 0x57 41 38")
        got = there.read(30)
        check(got is not None and got.payload[14] == 41, f"in a guest, by a rule: {got}")
        rules.load_policy(mgmt.OPEN_POLICY)


# Of what the lab's BMC has.
FRU_SIZE = 48


def matched(total, clients=4, ahead=EACH // 4):
    """So many requests of several clients at once, several of each on their way, have the right replies.

    Each reads another part of the inventory, and knows what is there."""
    with Asker("Reader") as reader:
        part = reader.ask("IPMI", bytes([0x0A, 0x11, 0, 0, 0, FRU_SIZE]))[2]
        equal("bytes of the inventory", FRU_SIZE, part[0])
        inventory = part[1:]
    problems = []

    def client(number):
        try:
            with Asker(f"Client{number}") as asker:
                waiting = {}
                left = total // clients
                while left or waiting:
                    while left and len(waiting) < ahead:
                        at, count = (left * 7 + number) % 32, 1 + (left + number) % 16
                        asked = asker.send("IPMI", bytes([0x0A, 0x11, 0, at, 0, count]))
                        waiting[asked] = bytes([count]) + inventory[at : at + count]
                        left -= 1
                    correlation, *answer = asker.receive()
                    wanted = [ANSWERED, 0, waiting.pop(correlation)]
                    if answer != wanted:
                        problems.append(f"client {number}: {answer}, not {wanted}")
                        return
        except Exception as e:  # pylint: disable=broad-exception-caught
            problems.append(f"client {number}: {e!r}")

    began = time.monotonic()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal("problems", [], problems)
    took = time.monotonic() - began
    note(f"{total} requests of {clients} clients in {took:.1f} s, {total / took:.0f} in a second")


@hw_case
def many_at_once():
    """Four clients at once get the right replies, 400 in all (ipmi_bridge_long.py: 10,000)"""
    matched(400)


@hw_case
def one_component_has_so_many():
    """A component has 16 requests on their way; more are refused at once, while the BMC hangs"""
    with Asker("Asker") as asker:
        answers(asker)
        bmc("hang")
        sent = [asker.send("IPMI", SELF_TEST, 3000) for _ in range(EACH + 4)]
        got = dict(asker.receive()[:2] for _ in sent)
        statuses = [got[number] for number in sent]
        equal("those over the bound", [BUSY] * 4, statuses[EACH:])
        check(set(statuses[:EACH]) <= {TIMED_OUT, ANSWERED}, f"the others: {statuses[:EACH]}")
        check(TIMED_OUT in statuses, "none hears that the time is up")
        bmc("clear")
        answers(asker, 60)


@hw_case
def faults():
    """A BMC that is slow, lost, or talks nonsense is an error in time, and the next answer is right"""
    with Asker("Asker") as asker:
        answers(asker)
        for line, status, code in (
            ("delay 1500", ANSWERED, 0),
            ("code 0xc0", ANSWERED, 0xC0),
            ("drop", ANSWERED, 0xC3),
            ("short", NONSENSE, 0),
            ("garbage", ANSWERED, 0xFF),
        ):
            bmc(f"fault {line} count=1 netfn=0x2c command=0x02")
            got = asker.ask("Power", POWER_READING)
            equal(line, (status, code), got[:2])
            answers(asker)
        bmc("hang")
        began = time.monotonic()
        # The driver's own patience ends after this deadline.
        equal("while it hangs", TIMED_OUT, asker.ask("Power", POWER_READING, 2000)[0])
        took = time.monotonic() - began
        check(took < 3 * mgmt.PATIENCE, f"told after {took:.1f} s")
        bmc("clear")
        answers(asker, 60)


@hw_case
def killed():
    """The BMC is killed and started again under load: errors, then answers; nobody is stuck"""
    over = threading.Event()
    counts, problems = [], []

    def client(number):
        count = {}
        try:
            with Asker(f"Client{number}") as asker:
                while not over.is_set():
                    status, code, _ = asker.ask("IPMI", GET_DEVICE_ID, 10000)
                    count[status, code] = count.get((status, code), 0) + 1
        except Exception as e:  # pylint: disable=broad-exception-caught
            problems.append(f"client {number}: {e!r}")
        counts.append(count)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    with Asker("Asker") as asker:
        for _ in range(2):
            time.sleep(1)
            bmc("kill")
            time.sleep(1)
            bmc("start")
            answers(asker, 60)
    time.sleep(1)
    over.set()
    for thread in threads:
        thread.join(60 * mgmt.PATIENCE)
        check(not thread.is_alive(), "a client is stuck")
    equal("problems", [], problems)
    for count in counts:
        note(f"status, completion code: {count}")
        check(count.get((ANSWERED, 0), 0) > 3, f"too few answers: {count}")
        # While there is none, QEMU answers that it starts.
        allowed = {(ANSWERED, 0), (ANSWERED, 0xD2), (ANSWERED, 0xC3), (ANSWERED, 0xFF), (TIMED_OUT, 0), (NONSENSE, 0)}
        check(set(count) <= allowed, f"other answers: {count}")


def driver(action, device):
    with open(f"/sys/bus/platform/drivers/ipmi_si/{action}", "w", encoding="ascii") as f:
        f.write(device)


@hw_case
def removed():
    """The interface is removed and comes again: who waits hears that there is no BMC"""
    # Firmware may tell of the same interface twice: the one that is used.
    device = os.path.basename(os.path.realpath("/sys/class/ipmi/ipmi0/device"))
    with Asker("Asker") as asker:
        bmc("hang")
        sent = [asker.send("IPMI", SELF_TEST) for _ in range(4)]
        time.sleep(0.5)
        removing = threading.Thread(target=driver, args=("unbind", device))
        removing.start()
        got = {asker.receive()[:2] for _ in sent}
        check({number for number, _ in got} == set(sent), f"answers {got} to {sent}")
        statuses = {status for _, status in got}
        check(statuses <= {ABSENT, ANSWERED} and ABSENT in statuses, f"while it is removed: {got}")
        bmc("clear")
        removing.join(60 * mgmt.PATIENCE)
        equal("without it", (ABSENT, 0, b""), asker.ask("IPMI", SELF_TEST))
        driver("bind", device)
        answers(asker, 60)


@hw_case
def unloaded():
    """The module goes under load, and comes again: each request is answered, or comes back"""
    for _ in range(3):
        with Asker("Asker") as asker:
            sent = [asker.send("IPMI", SELF_TEST) for _ in range(8)]
            mgmt.must("rmmod", "mgmt_ipmi")
            for _ in sent:
                back = asker.read(40 * mgmt.PATIENCE)
                if check(back is not None, "a request that nobody heard of"):
                    check(back.kind in (REPLY, UNDELIVERABLE), f"{back}")
        load()
    with Asker("Asker") as asker:
        answers(asker)
    mgmt.must("rmmod", "mgmt_ipmi")


if __name__ == "__main__":
    mgmt.main(need_guests=1)
