# SPDX-License-Identifier: GPL-2.0
"""A client of /dev/ipmi0 (linux/ipmi.h), and of the lab's BMC (docs/bmc.md), for tests in Dom0.

with Ipmi() as ipmi:
    code, data = ipmi.ask(0x06, 0x01)
"""

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import time

import mgmt

DEVICE = "/dev/ipmi0"

# -- linux/ipmi.h, linux/ipmi_msgdefs.h --

ADDRESS = struct.Struct("<ihBx")  # of the system interface
SYSTEM_INTERFACE = ADDRESS.pack(0x0C, 0x0F, 0)
REQUEST = struct.Struct("<QI4xqBBHxxxxQ")
RECEIVED = struct.Struct("<i4xQI4xqBBHxxxxQ")
RESPONSE, EVENT = 1, 2


def _ioc(direction, number, size):
    return direction << 30 | size << 16 | ord("i") << 8 | number


RECEIVE_TRUNC = _ioc(3, 11, RECEIVED.size)
SEND = _ioc(2, 13, REQUEST.size)
GETS_EVENTS = _ioc(2, 16, 4)

# -- commands and codes --

CHASSIS, SENSOR, APP, STORAGE, GROUP, OEM = 0x00, 0x04, 0x06, 0x0A, 0x2C, 0x2E
DCMI = b"\xdc"
MAKER = bytes([0xD9, 0x7E, 0x00])
OK, NOT_ACTIVE, TIMEOUT, TRUNCATED, STARTING, NOT_IN_STATE, UNSPECIFIED = 0x00, 0x80, 0xC3, 0xC6, 0xD2, 0xD5, 0xFF
OUT_OF_RANGE = 0x84  # of DCMI's limits


class Ipmi:
    """An open /dev/ipmi0."""

    def __init__(self):
        self.fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
        self._next = 0

    def close(self):
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def want_events(self):
        fcntl.ioctl(self.fd, GETS_EVENTS, struct.pack("<i", 1))

    def send(self, netfn, command, data=b""):
        """Sends a request; returns its number."""
        self._next += 1
        address = ctypes.create_string_buffer(SYSTEM_INTERFACE)
        body = ctypes.create_string_buffer(bytes(data), max(len(data), 1))
        fcntl.ioctl(
            self.fd,
            SEND,
            REQUEST.pack(
                ctypes.addressof(address), ADDRESS.size, self._next, netfn, command, len(data), ctypes.addressof(body)
            ),
        )
        return self._next

    def receive(self, seconds=10):
        """(type, number, netfn, command, data), or None if nothing comes."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return None
        address = ctypes.create_string_buffer(64)
        body = ctypes.create_string_buffer(512)
        buffer = bytearray(
            RECEIVED.pack(0, ctypes.addressof(address), len(address), 0, 0, 0, len(body), ctypes.addressof(body))
        )
        fcntl.ioctl(self.fd, RECEIVE_TRUNC, buffer)
        kind, _, _, number, netfn, command, length, _ = RECEIVED.unpack(buffer)
        return kind, number, netfn, command, body.raw[:length]

    def ask(self, netfn, command, data=b"", seconds=30):
        """A request's completion code and data."""
        number = self.send(netfn, command, data)
        end = time.monotonic() + seconds
        while True:
            got = self.receive(max(0, end - time.monotonic()))
            if got is None:
                raise mgmt.Failure(f"no answer to {netfn:#x} {command:#x} within {seconds} s")
            kind, of, answered, to, body = got
            if kind != RESPONSE:
                continue
            mgmt.equal("an answer's request, function and command", (number, netfn + 1, command), (of, answered, to))
            return body[0], body[1:]

    def dcmi(self, command, data=b""):
        """The same for a command of DCMI, whose group comes first."""
        code, body = self.ask(GROUP, command, DCMI + bytes(data))
        # On an error the driver, too, may have answered.
        return code, body[1:] if body[:1] == DCMI else body

    def power(self):
        """Watts: now, the least, the greatest, the mean."""
        code, data = self.dcmi(0x02, [1, 0, 0])
        mgmt.equal("Get Power Reading", OK, code)
        return struct.unpack("<4H", data[:8])

    def set_cpus(self, *cpus):
        """Tells the model (performance, utilization), percent, of each CPU."""
        code, _ = self.ask(OEM, 0x01, MAKER + bytes([0, *(v for cpu in cpus for v in cpu)]))
        mgmt.equal("Set CPUs", OK, code)


def ipmitool(*arguments, seconds=60):
    """Exit status and output of ipmitool."""
    done = subprocess.run(
        ["ipmitool", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=seconds, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(errors="replace")


def bmc(line):
    """Has the lab's BMC do something; the answer."""
    done = subprocess.run(["bmc", *line.split()], stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False)
    if done.returncode:
        raise mgmt.Failure(f"bmc {line}: {done.stderr.decode().strip()}")
    return done.stdout.decode().strip()


def status():
    """What the BMC tells of itself, by name."""
    return dict(word.split("=") for word in bmc("status").split())


def need_bmc():
    """Skips the case where there is no BMC."""
    if not os.path.exists(DEVICE):
        raise mgmt.Skip(f"no {DEVICE}: scripts/lab --bmc")


def need_external():
    """Skips the case where there is no BMC that can be steered."""
    need_bmc()
    asked = subprocess.run(["bmc", "status"], capture_output=True, check=False)
    if asked.returncode == 2 or b"knows no" in asked.stderr:
        raise mgmt.Skip("not our BMC: scripts/lab --bmc extern")
