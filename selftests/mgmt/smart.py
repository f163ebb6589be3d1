#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The M-channel of disks: mgmt-smart serves what smartctl reads of each."""

import atexit
import errno
import glob
import json
import os
import subprocess
import time

import mgmt
from mgmt import REQUEST, File, case, check, equal, guests, message, note, raises

GOOD, BAD = "DISK0001", "DISK0002"
# smartctl, but that the test can have a disk warn.
WRAPPER = "/run/smartctl"
WARNS = "/run/smartctl.warns"
SCRIPT = f"""#!/usr/bin/python3
import json, os, subprocess, sys
done = subprocess.run(["smartctl", *sys.argv[1:]], stdout=subprocess.PIPE)
said = json.loads(done.stdout)
log = said.get("nvme_smart_health_information_log")
if log and said["serial_number"] == "{GOOD}" and os.path.exists("{WARNS}"):
    log["critical_warning"] = 1
    said["smart_status"]["passed"] = False
print(json.dumps(said))
sys.exit(done.returncode)
"""
_server = []


@case
def ready():
    """The modules are loaded; two disks are there, and served"""
    mgmt.ready()
    mgmt.must("modprobe", "nvme")
    end = time.monotonic() + 30 * mgmt.PATIENCE
    while len(found := glob.glob("/dev/nvme[0-9]")) < 2:
        if time.monotonic() > end:
            raise mgmt.Skip(f"no two NVMe disks, but {found}: scripts/lab --nvme")
        time.sleep(0.2)
    with open(WRAPPER, "w", encoding="ascii") as f:
        f.write(SCRIPT)
    os.chmod(WRAPPER, 0o755)
    command = ["mgmt-smart", "--smartctl", WRAPPER, "--every", "2", "--fresh", "100", *found]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    _server.append(server)
    atexit.register(server.wait)
    atexit.register(server.kill)
    said = sorted(server.stdout.readline().split()[-1] for _ in found)
    equal("who is served", [f"hw:{GOOD}", f"hw:{BAD}"], said)


def need_server():
    if not _server:
        raise mgmt.Skip("nobody serves")


def ask(f, serial, question, seconds=30):
    """What a disk's agent answers."""
    f.write(
        message(
            "SMART", mgmt.hardware(serial.encode()), question, flags=REQUEST, correlation=7,
            deadline_ms=seconds * 1000 * mgmt.PATIENCE,
        )
    )  # fmt: skip
    reply = f.read(seconds * mgmt.PATIENCE)
    if reply is None or reply.kind != mgmt.REPLY:
        raise mgmt.Failure(f"{serial}, {question}: {reply}")
    return json.loads(reply.payload)


@case
def found():
    """Both are found"""
    need_server()
    output = mgmt.must("mgmtctl", "discover", "SMART").split()
    for serial in (GOOD, BAD):
        check(f"SMART@hw:{serial}" in output, f"{serial}: {output}")


@case
def health():
    """What they answer is what smartctl says"""
    need_server()
    with File("Asker") as f:
        for device in glob.glob("/dev/nvme[0-9]"):
            done = subprocess.run(["smartctl", "--json", "--all", device], stdout=subprocess.PIPE, check=False)
            theirs = json.loads(done.stdout)
            serial = theirs["serial_number"]
            ours = ask(f, serial, b"health")
            note(f"{ours}")
            equal(f"{serial}: passed", theirs["smart_status"]["passed"], ours["passed"])
            equal(f"{serial}: temperature", theirs["temperature"]["current"], ours["temperature_c"])
            equal(f"{serial}: model", theirs["model_name"], ours["model"])
            everything = ask(f, serial, b"all")
            key = "nvme_smart_health_information_log"
            equal(f"{serial}: log", theirs[key]["critical_warning"], everything[key]["critical_warning"])
        check("questions" in ask(f, GOOD, b"erase")["error"], "another question")
    output = mgmt.must("mgmtctl", "smart")
    for serial, verdict in ((GOOD, "passed"), (BAD, "FAILING")):
        line = next((line for line in output.splitlines() if serial in line), "")
        check(verdict in line and "°C" in line, f"mgmtctl smart: {output}")


@case
def guest():
    """A guest may ask by a rule"""
    need_server()
    if not guests():
        raise mgmt.Skip("no guest")
    name = f"vm:{mgmt.domid(guests()[0])}"
    asking = f"mgmtctl smart --at hw:{GOOD}"
    with File() as rules:
        rules.load_policy("")
        code, output = mgmt.in_guest(guests()[0], asking)
        check(code == 1 and "denied by a rule" in output, f"by default: {code} {output}")
        rules.load_policy(f"allow {name} -> SMART@hw:*")
        code, output = mgmt.in_guest(guests()[0], asking)
        check(code == 0 and "passed" in output, f"by a rule: {code} {output}")
        rules.load_policy(mgmt.OPEN_POLICY)


@case
def news():
    """Who listens hears that a disk warns, and that it no longer does"""
    need_server()
    with File("SMART.Events") as f:
        for passed in (False, True):
            if passed:
                os.remove(WARNS)
            else:
                open(WARNS, "w", encoding="ascii").close()
            told = f.read(30 * mgmt.PATIENCE)
            if check(told is not None, "no news"):
                equal("from", mgmt.hardware(GOOD.encode()), told.source_component)
                equal("news", passed, json.loads(told.payload)["passed"])
        equal("more news", None, f.read(5))


@case
def bind():
    """Binding to hardware: EPERM for a user, EINVAL, EADDRINUSE; and what it gives"""
    component = mgmt.hardware(b"X-1")
    with File() as f, File() as other:
        for text, bad in (("self", mgmt.SELF), ("a VM", mgmt.vm(1)), ("nothing", mgmt.UNSPECIFIED), ("nonsense", b"\xff" * 32)):
            raises(errno.EINVAL, text, f.bind_hardware, bad, "SMART")
        raises(errno.EINVAL, "no App_ID", f.bind_hardware, component, "")
        raises(errno.EINVAL, "a flag", f.bind_hardware, component, "SMART", flags=2)
        raises(errno.EINVAL, "reserved", f.bind_hardware, component, "SMART", reserved=bytes(27) + b"\1")
        os.seteuid(65534)
        try:
            raises(errno.EPERM, "a user", f.bind_hardware, component, "SMART")
        finally:
            os.seteuid(0)
        f.bind_hardware(component, "SMART")
        raises(errno.EINVAL, "once more", f.bind_hardware, component, "Other")
        raises(errno.EADDRINUSE, "another", other.bind_hardware, component, "SMART")
        other.bind("Asker")
        other.write(message("SMART", component, b"question"))
        got = f.read(5)
        check(got is not None and got.payload == b"question", f"what it receives: {got}")
        f.write(message("Asker", mgmt.SELF, b"answer"))
        got = other.read(5)
        equal("from", component, got and got.source_component)


if __name__ == "__main__":
    mgmt.main(need_guests=0)
