#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A guest's root writes what it likes to its own xenstore nodes: Dom0 survives, others go on."""

import contextlib
import errno
import random
import subprocess
import time

import mgmt
import xs
from mgmt import Bystander, File, GuestFile, case, check, equal, guests, message, raises, vm
from xs import here as read

NAME = guests()[0] if guests() else ""
MAPPINGS = 4  # two guests, two rings each


def front(node=""):
    return f"/local/domain/{mgmt.domid(NAME)}/device/mgmt/0{node and '/' + node}"


def back(node=""):
    return f"/local/domain/0/backend/mgmt/{mgmt.domid(NAME)}/0{node and '/' + node}"


def error():
    """What the backend says in the place where the toolstack looks for it."""
    return read(f"/local/domain/0/error/backend/mgmt/{mgmt.domid(NAME)}/0/error")


def mappings():
    with open("/proc/vmallocinfo") as f:
        return sum("xenbus_map_ring" in line for line in f)


def unloaded():
    """The guest's module is not there, the backend waits."""
    status, output = mgmt.shell(f"unload {NAME}; mgmtctl detach --if-needed {NAME}; mgmtctl attach {NAME}")
    check(status == 0, f"attach: {output}")
    waiting()


def waiting():
    if not mgmt.until(lambda: read(back("state")) == "2", 15):
        raise mgmt.Failure(f"the backend is in state {read(back('state'))}, not waiting")


def anew():
    """A backend that was bound just now, and has not complained of anything yet."""
    xs.here(front("state"), "1")
    xs.here(f"/local/domain/0/error/backend/mgmt/{mgmt.domid(NAME)}", xs.REMOVE)
    mgmt.rebind(NAME)
    waiting()


def recovers():
    """With new nodes and its own module, the guest still gets its channel."""
    status, output = mgmt.shell(f"mgmtctl detach --if-needed {NAME}; unload {NAME}; ready; round_trip {NAME} 2")
    check(status == 0, f"{NAME} does not come back: {output}")


def works(name=None):
    """A request from Dom-M, and its answer."""
    status, output = mgmt.shell(f"round_trip {name or NAME} 2")
    check(status == 0, f"no round trip to {name or NAME}: {output}")


GOOD = {
    "protocol": "1",
    "session": "4711",
    "ring-page-order": "0",
    "event-channel": "1000",
    "tx-ring-refs": "900 901",
    "rx-ring-refs": "902 903",
}

GARBAGE = [
    {},  # nothing but grants and a port that do not exist
    {"ring-page-order": "99"},
    {"ring-page-order": "4"},
    {"ring-page-order": "-1"},
    {"ring-page-order": "4294967295"},
    {"ring-page-order": "0x1"},
    {"ring-page-order": ""},
    {"ring-page-order": None},
    {"protocol": "2"},
    {"protocol": "one"},
    {"protocol": None},
    {"session": None},
    {"session": "99999999999999999999"},
    {"tx-ring-refs": None},
    {"rx-ring-refs": ""},
    {"tx-ring-refs": "900"},
    {"tx-ring-refs": "900 901 902"},
    {"tx-ring-refs": "900  901"},
    {"tx-ring-refs": "a b"},
    {"tx-ring-refs": "4294967295 4294967295"},
    {"tx-ring-refs": "900 " * 800},
    {"rx-ring-refs": "-1 -2"},
    {"event-channel": "0"},
    {"event-channel": "4294967295"},
    {"event-channel": "-1"},
    {"event-channel": None},
    {"protocol": "x" * 3000},
]


@case(timeout=300)
def garbage():
    """Garbage in every node: never connected, an error in the backend's error node, no mapping left."""
    with Bystander():
        unloaded()
        for wrong in GARBAGE:
            anew()
            nodes = {**GOOD, **wrong}.items()
            requests = [(front(node), xs.REMOVE if value is None else value) for node, value in nodes]
            xs.blast(NAME, [*requests, (front("state"), "3")])
            text = ", ".join(f"{node} = {str(value)[:20]!r}" for node, value in wrong.items()) or "unknown grants"
            check(mgmt.until(lambda: error() is not None, 10), f"{text}: no error in the error node")
            check(read(back("state")) != "4", f"{text}: the backend is connected")
            # Another try may just be under way.
            check(mgmt.until(lambda: mappings() <= MAPPINGS - 2, 5), f"{text}: {mappings()} rings are mapped")
        mgmt.note(f"the last error: {error()}")
    recovers()
    equal("rings that are mapped", MAPPINGS, mappings())


@case(timeout=200)
def another_guests_rings():
    """The grants and the port that another guest has published are of no use to this one."""
    other = f"/local/domain/{mgmt.domid(guests()[1])}/device/mgmt/0"
    nodes = ("protocol", "session", "ring-page-order", "event-channel", "tx-ring-refs", "rx-ring-refs")
    with Bystander():
        unloaded()
        anew()
        stolen = [(front(node), read(f"{other}/{node}")) for node in nodes]
        xs.blast(NAME, [*stolen, (front("state"), "3")])
        check(mgmt.until(lambda: error() is not None, 10), "no error in the error node")
        check(read(back("state")) != "4", "the backend is connected")
        equal("rings that are mapped", MAPPINGS - 2, mappings())
    recovers()


@case(timeout=200)
def strange_states():
    """Each state that a guest may show, known or not, in every order of two."""
    values = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "-1", "99999999999", "", "x"]
    pairs = [(front("state"), v) for first in values for second in values for v in (first, second)]
    unloaded()
    with Bystander():
        xs.blast(NAME, pairs)
        time.sleep(2)
    recovers()
    equal("rings that are mapped", MAPPINGS, mappings())


@case(timeout=200)
def storm():
    """200 random states while the module is loaded and messages run; then a reload, and all is well."""
    mgmt.ready()
    dice = random.Random(7)
    with Bystander():
        for _ in range(4):
            xs.blast(NAME, [(front("state"), str(dice.randrange(9))) for _ in range(50)])
            time.sleep(1)
    recovers()
    equal("rings that are mapped", MAPPINGS, mappings())


@case(timeout=200)
def other_rings():
    """A connected guest rewrites its nodes: nothing of it is looked at before it starts anew."""
    mgmt.ready()
    before = mappings()
    nodes = ("ring-page-order", "event-channel", "tx-ring-refs", "rx-ring-refs", "protocol")
    kept = {node: read(front(node)) for node in nodes}
    xs.blast(NAME, [(front(node), "99") for node in nodes])
    time.sleep(1)
    works()
    # The same again, and now the backend is asked to take them.
    xs.blast(NAME, [(front("session"), "1"), (front("state"), "3")])
    check(mgmt.until(lambda: error() is not None or mappings() < before, 10), "the backend took what it cannot take")
    check(None not in kept.values(), f"nodes are missing: {kept}")
    recovers()
    equal("rings that are mapped", before, mappings())


@case(timeout=200)
def removed_nodes():
    """A guest removes its own nodes, one by one and all: the backend goes, attach brings it back."""
    mgmt.ready()
    for node in ("state", "backend", "tx-ring-refs"):
        xs.blast(NAME, [(front(node), xs.REMOVE)])
        time.sleep(0.5)
        recovers()
    xs.blast(NAME, [(front(), xs.REMOVE)])
    check(mgmt.until(lambda: mappings() == MAPPINGS - 2, 20), f"{mappings()} rings are mapped")
    recovers()
    works(guests()[1])


def flood(domain, name, where):
    """A program that writes to a receiver that does not read."""
    program = f"mgmt-test --timeout 100 flood --app {name}Writer --to {name}@{where} --size 4000 --count 9999 --wait 0"
    command = ["guest", "-T", "110", domain, program] if domain else ["sh", "-c", f"exec {program}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def is_stuck(field):
    """Whether the link's counter stands still."""
    with File() as f:
        before = f.link(mgmt.domid(NAME))[field]
        time.sleep(1)
        return before > 0 and f.link(mgmt.domid(NAME))[field] == before


def unbind_front(action):
    mgmt.must("guest", "-T", "60", NAME, f"echo mgmt-0 >/sys/bus/xen/drivers/mgmtfront/{action}", timeout=70)


def unbind_back(action):
    with open(f"/sys/bus/xen-backend/drivers/mgmtback/{action}", "w") as f:
        f.write(f"mgmt-{mgmt.domid(NAME)}-0")


@contextlib.contextmanager
def unbound(bind):
    """Without the device, whatever comes of it: what follows needs it."""
    bind("unbind")
    try:
        yield
    finally:
        bind("bind")


@case(timeout=300)
def device_goes_under_open_files():
    """A device goes while files are open and writers wait: they hear of it, and the next device serves them."""
    mgmt.ready()
    there_app, here_app = (vm(mgmt.domid(NAME)), "OpenThere"), (mgmt.MVM_COMPONENT, "OpenHere")
    to_guest, to_dom0 = (message(app, where, bytes(4000)) for where, app in (there_app, here_app))
    with Bystander(), File("OpenHere") as here, GuestFile(NAME, "OpenThere") as there:
        for bind in (unbind_front, unbind_back):
            here.write(to_guest)
            check(there.read(20) is not None, "nothing arrived in the guest")
            there.write(to_dom0)
            check(here.read(20) is not None, "nothing arrived in Dom0")
            writers = [
                (flood(None, "OpenThere", f"vm:{mgmt.domid(NAME)}"), "no such component"),
                (flood(NAME, "OpenHere", "mvm"), "not connected"),
            ]
            stuck = mgmt.until(lambda: is_stuck("rx_messages") and is_stuck("tx_messages"), 60)
            check(stuck, "the writers do not wait for room")
            with unbound(bind):
                for writer, text in writers:
                    output = writer.communicate(timeout=120)[0].decode()
                    check(writer.returncode == 1 and text in output, f"a writer says {output!r}, not {text!r}")
                # What had arrived is still there.
                while here.read(1):
                    pass
                check(there.read(20) is not None, "nothing of it is there")
                there.drain()
                raises(errno.EHOSTUNREACH, "Dom0, with no device", here.write, to_guest)
                raises(errno.ENOTCONN, "the guest, with no device", there.write, to_dom0)
                here.write(message("OpenHere", mgmt.SELF, b"alone"))
                own = here.read(10)
                check(own and own.payload == b"alone", "a file without a device does not serve its own domain")
            if not mgmt.until(lambda: read(front("state")) == read(back("state")) == "4", 20):
                raise mgmt.Failure("no connection with the next device")
    works()


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
