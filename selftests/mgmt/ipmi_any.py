#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The hardware M-channel with whatever BMC there is: it says what ipmitool says, also of what it lacks."""

import functools
import re

import ipmi
import mgmt
from ipmi import ipmitool
from ipmi_bridge import (
    ANSWERED, COLD_RESET, GET_DEVICE_ID, POWER_READING, REFUSED, SELF_TEST, Asker, load, mgmtctl, serial,
)  # fmt: skip
from mgmt import case, check, equal, note

mgmt.CASES.clear()  # those of ipmi_bridge.py

ADD_ENTRY = bytes([0x0A, 0x44])
# What a BMC says that does not know a command, or not this one of a group.
UNKNOWN = (0xC1, 0xCC)


def any_case(function):
    """A case with the module loaded, and any BMC."""

    @functools.wraps(function)
    def run():
        ipmi.need_bmc()
        load()
        function()

    return case(run, timeout=120)


def raw(request):
    """What ipmitool gets for the same request: completion code and data."""
    code, output = ipmitool("raw", *(f"{byte:#04x}" for byte in request))
    if code == 0:
        return 0, bytes.fromhex("".join(output.split()))
    refused = re.search(r"rsp=(0x[0-9a-f]+)", output)
    check(refused, f"ipmitool raw {request.hex(' ')}: {output}")
    return int(refused[1], 16), b""


@case
def ready():
    """The modules are loaded"""
    mgmt.ready()


@any_case
def found():
    """It is found by the machine's serial number"""
    output = mgmt.must("mgmtctl", "discover", "IPMI")
    check(f"IPMI@hw:{serial()}" in output.split(), output)


@any_case
def same():
    """Raw requests get what ipmitool gets"""
    with Asker("Asker") as asker:
        for request in (GET_DEVICE_ID, SELF_TEST, b"\x00\x01", b"\x0a\x40", b"\x0a\x20", b"\x0a\x43\0\0\xff\xff\0\xff"):
            code, data = raw(request)
            note(f"{request.hex(' ')}: {code:#04x} {data.hex(' ')}")
            equal(f"{request.hex(' ')}", (ANSWERED, code, data), asker.ask("IPMI", request))
        equal("cold reset", (REFUSED, 0, b""), asker.ask("IPMI", COLD_RESET))


@any_case
def log():
    """What is added to the log by one way is read by the other"""
    record = bytes([0, 0, 2, 0, 0, 0, 0, 0x20, 0, 4, 1, 2, 1, 0x57, 0x28, 0x26])
    with Asker("Asker") as asker:
        before = asker.ask("IPMI", b"\x0a\x40")[2]
        status, code, _ = asker.ask("IPMI.Admin", ADD_ENTRY + record)
        equal("added", (ANSWERED, 0), (status, code))
        after = asker.ask("IPMI", b"\x0a\x40")[2]
    count = int.from_bytes(after[1:3], "little")
    equal("entries", int.from_bytes(before[1:3], "little") + 1, count)
    code, output = mgmtctl("sel")
    check(code == 0 and "04 01 02 01 57 28 26" in output and f"{count} entries" in output, f"sel: {output}")
    code, output = ipmitool("sel", "info")
    check(code == 0 and re.search(rf"Entries +: {count}\b", output), f"ipmitool sel info: {output}")


@any_case
def sensors():
    """The same sensors, with the same readings"""
    code, output = mgmtctl("sensors")
    check(code == 0, output)
    ours = {words[0].strip(): words[1] for words in (re.split(r"  +", line) for line in output.splitlines()) if words[1:]}
    code, output = ipmitool("sdr", "list", "full")
    check(code == 0, output)
    theirs = dict([part.strip() for part in line.split("|")][:2] for line in output.splitlines() if "|" in line)
    note(f"{ours} and {theirs}")
    equal("names", set(theirs), set(ours))
    for name, value in theirs.items():
        number = re.match(r"-?[\d.]+", value)
        if not number:
            continue
        reading = re.match(r"-?[\d.]+", ours[name])
        # They are of different moments: the lab's power has noise, which its fan follows.
        tolerance = max(6, float(number[0]) / 10)
        check(reading and abs(float(reading[0]) - float(number[0])) <= tolerance, f"{name}: {ours[name]}, but {value}")


@any_case
def chassis():
    """The chassis is on"""
    code, output = mgmtctl("chassis")
    check(code == 0 and re.search(r"^power +on$", output, re.M), f"chassis: {output}")


@any_case
def power():
    """Watts, or a clear word that this BMC has none"""
    code, output = mgmtctl("power")
    theirs, _ = raw(bytes([ipmi.GROUP, 0x02]) + ipmi.DCMI + bytes([1, 0, 0]))
    if theirs == 0:
        check(code == 0 and re.search(r"^now +\d+ W$", output, re.M), f"power: {output}")
        return
    check(theirs in UNKNOWN, f"ipmitool: {theirs:#04x}")
    check(code == 1 and f"completion code {theirs:#04x}" in output, f"power: {code} {output}")
    with Asker("Asker") as asker:
        equal("an agent", (ANSWERED, theirs, b""), asker.ask("Power", POWER_READING))


@any_case
def unload():
    """The module goes"""
    mgmt.must("rmmod", "mgmt_ipmi")


if __name__ == "__main__":
    mgmt.main(need_guests=0)
