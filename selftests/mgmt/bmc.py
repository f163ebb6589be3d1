#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The lab's BMC: what the kernel's IPMI driver and ipmitool get from it, and how it breaks."""

import errno
import functools
import struct
import threading
import time

import ipmi
import mgmt
from ipmi import (
    APP, CHASSIS, MAKER, NOT_ACTIVE, NOT_IN_STATE, OEM, OK, OUT_OF_RANGE, STARTING, STORAGE, TIMEOUT, TRUNCATED,
    UNSPECIFIED, Ipmi, bmc, ipmitool, status,
)  # fmt: skip
from mgmt import check, equal, note

SELF_TEST, DEVICE_ID, PASSED = 0x04, 0x01, b"\x55\x00"
LOG = 0x11
# The inlet's temperature goes over its first threshold.
HOT = "event 0x01 2 0x01 0x57 40 38"


def case(function):
    """A case that needs the external BMC, and leaves it without faults."""

    @functools.wraps(function)
    def run():
        ipmi.need_external()
        try:
            function()
        finally:
            bmc("clear")

    return mgmt.case(run, timeout=300)


def tool(text, *arguments):
    """What ipmitool prints must hold this text."""
    code, output = ipmitool(*arguments)
    check(code == 0 and text in output, f"ipmitool {' '.join(arguments)}: status {code}: {output}")
    return output


def answers(text, connection, seconds=30):
    """The BMC answers again within this time; until then the driver may refuse requests."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if connection.ask(APP, SELF_TEST) == (OK, PASSED):
                return
        except OSError as e:
            check(e.errno in (errno.EBUSY, errno.EIO), f"{text}: {e}")
        time.sleep(0.2)
    raise mgmt.Failure(f"{text}: no good answer within {seconds} s")


def watts(low, high, seconds=60):
    """The reading is in a range soon."""
    end = time.monotonic() + seconds
    with Ipmi() as connection:
        while not low <= (now := connection.power()[0]) <= high:
            if time.monotonic() > end:
                raise mgmt.Failure(f"{now} W, not {low} to {high} W within {seconds} s")
            time.sleep(0.5)


@case
def identity():
    """It is found, and its inventory has the machine's serial number"""
    tool("32473", "mc", "info")
    serial = open("/sys/class/dmi/id/product_serial").read().strip()
    tool(f"Product Serial        : {serial}", "fru", "print", "0")


@case
def sensors():
    """ipmitool reads the sensors by their records"""
    output = tool("Inlet Temp", "sdr")
    for name in ("Power", "Fan"):
        check(name in output, f"no {name} in {output}")
    tool("Inlet Temp", "dcmi", "sensors")
    tool("42.000", "sensor", "get", "Inlet Temp")


@case
def log():
    """The log is added to, read and cleared"""
    tool("Clearing", "sel", "clear")
    with Ipmi() as connection:
        record = bytes([0, 0, 0xE0, *range(13)])
        ids = []
        for _ in range(2):
            code, data = connection.ask(STORAGE, 0x44, record)
            equal("Add SEL Entry", (OK, 2), (code, len(data)))
            ids += struct.unpack("<H", data)
        equal("the second id", ids[0] + 1, ids[1])
    bmc(HOT)
    tool("Upper Non-critical going high", "sel", "list")
    equal("entries", "3", status()["sel"])
    tool("Clearing", "sel", "clear")
    tool("Entries          : 0", "sel", "info")


@case
def chassis():
    """Power off is written down, and not done"""
    tool("System Power         : on", "chassis", "status")
    with Ipmi() as connection:
        equal("Chassis Control", (OK, b""), connection.ask(CHASSIS, 0x02, b"\0"))
        equal("an unknown one", 0xCC, connection.ask(CHASSIS, 0x02, b"\4")[0])
    equal("what was asked", "0", status()["chassis"])


@case
def power():
    """Power follows what the host tells of its CPUs; all who ask read the same"""
    with Ipmi() as connection:
        connection.set_cpus((100, 0), (100, 0))
        watts(74, 86)
        connection.set_cpus((100, 100), (80, 50))
        code, model = connection.ask(OEM, 0x02, MAKER)
        equal("Get Model", (OK, 137_000), (code, struct.unpack("<I", model[7:11])[0]))
        time.sleep(20)
        watts(131, 143)
        reading = ipmitool("dcmi", "power", "reading", "5_sec")[1]
        ours = connection.power()[0]
        words = next((line.split() for line in reading.splitlines() if "Average power" in line), None)
        check(words and abs(int(words[-2]) - ours) <= 6, f"{ours} W, but {reading}")
        equal("too many CPUs", 0xC9, connection.ask(OEM, 0x01, MAKER + bytes([1, 100, 100, 100, 100]))[0])
        connection.set_cpus((100, 0), (100, 0))


@case
def limit():
    """A limit is set, reads back, and is logged when it is exceeded"""
    with Ipmi() as connection:
        connection.set_cpus((100, 0), (100, 0))
        watts(74, 86)
        set_limit = functools.partial(struct.pack, "<3xBHI2xH")
        if connection.dcmi(0x03, bytes(2))[1][3:5] == bytes(2):
            equal("activate what is not set", NOT_IN_STATE, connection.dcmi(0x05, bytes([1, 0, 0]))[0])
        equal("less than idle", OUT_OF_RANGE, connection.dcmi(0x04, set_limit(LOG, 20, 1000, 1))[0])
        # ipmitool reads what is set before it sets something, and cannot where nothing is active: it looks
        # for the data in the wrong place when the completion code is not 0.
        equal("set", (OK, b""), connection.dcmi(0x04, set_limit(LOG, 150, 2000, 1)))
        equal("not active", NOT_ACTIVE, connection.dcmi(0x03, bytes(2))[0])
    tool("successfully activated", "dcmi", "power", "activate")
    tool("", "dcmi", "power", "set_limit", "limit", "120")
    tool("", "dcmi", "power", "set_limit", "correction", "1000")
    output = tool("Power Limit Active", "dcmi", "power", "get_limit")
    for text in ("120 Watts", "1000 milliseconds", "Log Event to SEL", "1 seconds"):
        check(text in " ".join(output.split()), f"no {text} in {output}")
    before = int(status()["sel"])
    with Ipmi() as connection:
        connection.set_cpus((100, 100), (100, 100))
        end = time.monotonic() + 60
        while int(status()["sel"]) == before:
            if time.monotonic() > end:
                raise mgmt.Failure(f"not logged: {status()}")
            time.sleep(1)
        entry = connection.ask(STORAGE, 0x43, b"\0\0\xff\xff\0\xff")[1]
        equal("the event", bytes([0x0B, 1, 0x05, 0x01]), entry[12:16])
        connection.set_cpus((100, 0), (100, 0))
    tool("successfully deactivated", "dcmi", "power", "deactivate")
    equal("the limit", "none", status()["limit"])


@case
def event():
    """An event reaches who waits for events, by an interrupt"""
    with Ipmi() as connection:
        connection.want_events()
        while connection.receive(0.5):
            pass  # an earlier one
        bmc(HOT)
        got = connection.receive(30)
        if check(got is not None, "no event within 30 s"):
            equal("type", ipmi.EVENT, got[0])
            equal("event", bytes([0x04, 0x01, 2, 0x01, 0x57, 40, 38]), got[4][9:16])


@case
def faults():
    """A reply that is late, lost, or nonsense is an error, and the next one is right"""
    for line, codes in (
        ("delay 1500", [OK]),
        ("twice", [OK]),
        ("code 0xc0", [0xC0]),
        ("drop", [TIMEOUT]),
        ("late", [TIMEOUT]),
        ("checksum", [TIMEOUT]),
        ("short", [OK]),
        ("long", [TRUNCATED]),
        ("id", [OK]),
        # What answers another request the driver turns into an error.
        ("netfn", [UNSPECIFIED]),
        ("command", [UNSPECIFIED]),
        ("garbage", [UNSPECIFIED]),
    ):
        with Ipmi() as connection:
            bmc(f"fault {line} count=1 netfn=0x06 command={SELF_TEST}")
            began = time.monotonic()
            code, data = connection.ask(APP, SELF_TEST, seconds=60)
            note(f"{line}: {code:#04x} {data.hex()} after {time.monotonic() - began:.1f} s")
            check(code in codes, f"{line}: {code:#04x}")
            equal(f"the next answer after {line}", (OK, PASSED), connection.ask(APP, SELF_TEST))
        equal(f"faults left of {line}", "0", status()["faults"])


@case
def hang():
    """One that hangs is an error for each request, until it goes on"""
    with Ipmi() as connection:
        bmc("hang")
        equal("while it hangs", TIMEOUT, connection.ask(APP, SELF_TEST, seconds=60)[0])
        bmc("clear")
        answers("after it hung", connection)
        bmc("disconnect 2000")
        equal("without a connection", STARTING, connection.ask(APP, SELF_TEST)[0])
        answers("with a connection again", connection)


@case
def reset():
    """A reset takes a while; the driver then enables events again"""
    with Ipmi() as connection:
        connection.want_events()
        bmc("reset")
        equal("while it starts", STARTING, connection.ask(APP, SELF_TEST)[0])
        answers("after a reset of its own", connection)
        equal("Cold Reset", OK, connection.ask(APP, 0x02)[0])
        # The driver keeps all requests from a BMC that it has seen reset, for half a minute.
        mgmt.raises(errno.EBUSY, "a request after the reset", connection.ask, APP, SELF_TEST)
        answers("after the reset", connection, 90)
        end = time.monotonic() + 30
        while connection.ask(APP, 0x2F)[1] != b"\x0f":
            if time.monotonic() > end:
                raise mgmt.Failure(f"enables: {connection.ask(APP, 0x2F)}")
            time.sleep(1)
        while connection.receive(0):
            pass
        bmc(HOT)
        got = connection.receive(30)
        check(got is not None and got[0] == ipmi.EVENT, f"no event after the reset, but {got}")


class Client(threading.Thread):
    """Asks on and on; counts what comes back."""

    def __init__(self, over):
        super().__init__()
        self.over = over
        self.codes = {}
        self.problem = None
        self.start()

    def run(self):
        try:
            with Ipmi() as connection:
                while not self.over.is_set():
                    code, data = connection.ask(APP, DEVICE_ID, seconds=60)
                    self.codes[code] = self.codes.get(code, 0) + 1
                    if code == OK:
                        equal("a device id's length", 15, len(data))
        except Exception as e:  # pylint: disable=broad-exception-caught
            self.problem = repr(e)


@case
def killed():
    """Killed and started again under load of four clients: errors, then answers; nobody is stuck"""
    over = threading.Event()
    clients = [Client(over) for _ in range(4)]
    for _ in range(3):
        time.sleep(2)
        bmc("kill")
        time.sleep(1)
        bmc("start")
        with Ipmi() as connection:
            answers("after a new start", connection, 60)
    time.sleep(2)
    over.set()
    for client in clients:
        client.join(90)
        check(not client.is_alive(), "a client is stuck")
        check(client.problem is None, f"{client.problem}")
        check(client.codes.get(OK, 0) > 5, f"too few answers: {client.codes}")
        check(set(client.codes) <= {OK, STARTING, TIMEOUT, UNSPECIFIED}, f"codes {client.codes}")
        note(f"codes: {client.codes}")
    with Ipmi() as connection:
        equal("the new one's log", 0, struct.unpack("<H", connection.ask(STORAGE, 0x40)[1][1:3])[0])


if __name__ == "__main__":
    mgmt.main(need_guests=0)
