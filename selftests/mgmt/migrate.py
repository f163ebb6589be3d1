#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A link outlives its channel: guests migrate, are saved and restored, and backends go and come, while
numbered messages run both ways. All arrive, once and in order, and open files go on.

The longest pause between two messages is printed, of both receivers."""

import base64
import errno
import os
import subprocess
import time

import mgmt
from mgmt import File, GuestFile, case, check, equal, guests, message, must, until
from traffic import Traffic, connected, uuid

RUNNER = "/tmp/migrate.sh"


def ready(name):
    status, output = mgmt.shell(f"DOMID[{name}]={mgmt.domid(name)}; ready {name}", 150)
    if status:
        raise mgmt.Failure(f"{name} is not ready: {output}")


class Daemon:
    """mgmtd, which attaches every guest that appears."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["mgmtd"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class Guest:
    """A guest of this test's own."""

    def __init__(self, name, kind):
        self.name, self.kind = name, kind

    def __enter__(self):
        must("guest-create", self.name, self.kind, "mem=160", timeout=240)
        ready(self.name)
        return self.name

    def __exit__(self, *_):
        mgmt.run("xl", "destroy", self.name)
        mgmt.domid.cache_clear()


def come_back(name):
    """The guest is another domain now: its console, and its channel."""
    mgmt.domid.cache_clear()
    must("guest-attach", name, timeout=200)
    check(connected(name), f"{name}: not connected again")


# A slow reader in a guest.
READER = r"""
rm -f /tmp/reader.*
(sh -c 'echo $$ >/tmp/reader.pid; exec mgmt-test --timeout %d sink Reader --count %d --slow 50' >/tmp/reader.out 2>&1
echo $? >/tmp/reader.status) </dev/null &
"""


class SlowReader:
    """A reader that stops, and later reads slowly; and a sender that goes on until there is no room.

    When the guest moves meanwhile, its messages wait by both names of the guest, at both ends, and are held back
    again and again. They must all arrive in order, and nobody else's wait with them."""

    COUNT = 12_000

    def __init__(self, name):
        self.name, vm_id = name, mgmt.domid(name)
        limit = 400 * mgmt.PATIENCE
        must("guest", "-T", "60", name, READER % (limit, self.COUNT), timeout=90)
        flood = f"flood --app Writer --to Reader@uuid:{uuid(name)} --count {self.COUNT}"
        self.sender = subprocess.Popen(
            ["mgmt-test", "--timeout", str(limit), *flood.split()],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with File() as f:
            sent = lambda: f.link(vm_id)["tx_messages"]
            check(until(lambda: sent() > 300, 60), "nothing is sent to the slow reader")
            self.signal("STOP")
            # The last that is written bears the name that the guest has now.
            mgmt.settled(lambda: (sent(), f.link(vm_id)["queued_messages"]))

    def signal(self, signal):
        must("guest", self.name, f"kill -{signal} $(cat /tmp/reader.pid)")

    def end(self):
        self.signal("CONT")
        output, _ = self.sender.communicate(timeout=200)
        equal(f"the sender's exit status: {output.decode()}", 0, self.sender.returncode)
        finished = lambda: mgmt.in_guest(self.name, "test -s /tmp/reader.status")[0] == 0
        check(until(finished, 60), "the slow reader does not end")
        report = mgmt.in_guest(self.name, "cat /tmp/reader.out /tmp/reader.status")[1]
        equal(f"the reader's exit status: {report}", "0", report.split()[-1])


@case(timeout=120)
def stable_names():
    """A UUID leads to its guest, from Dom-M, from another guest, and from itself; and rules know it."""
    one, two = guests()[:2]
    names = {name: mgmt.stable(bytes.fromhex(uuid(name).replace("-", ""))) for name in (one, two)}
    with File("Named") as here, GuestFile(one, "Named") as first, GuestFile(two, "Named") as second:
        for sender, text in ((here, "Dom-M"), (second, "another guest"), (first, "itself")):
            sender.write(message("Named", names[one], text.encode()))
            got = first.read()
            equal("who wrote", text.encode(), got and got.payload)
        here.load_policy(f"deny uuid:{uuid(two)} -> uuid:{uuid(one)}\n{mgmt.OPEN_POLICY}")
        second.write(message("Named", names[one]))
        got = second.read()
        equal("what is denied", (mgmt.UNDELIVERABLE, mgmt.DENIED), got and (got.kind, got.reason))
        first.write(message("Named", names[two], b"other way"))
        got = second.read()
        equal("the other way", b"other way", got and got.payload)
        here.load_policy(mgmt.OPEN_POLICY)
        for component in (mgmt.stable(bytes(range(16))), mgmt.hardware(b"SN-1")):
            mgmt.raises(errno.EHOSTUNREACH, "nobody", here.write, message("Named", component))


@case(timeout=240)
def backend_goes_and_comes():
    """The backend is unbound and bound five times under traffic, and past a reader that stands still."""
    name = guests()[0]
    slow = SlowReader(name)
    with Traffic(name) as traffic:
        epoch = mgmt.xenstore(f"/local/domain/0/backend/mgmt/{mgmt.domid(name)}/0/epoch")
        for _ in range(5):
            mgmt.rebind(name)
            check(connected(name), "not connected again")
            traffic.goes_on("after the backend came")
        after = mgmt.xenstore(f"/local/domain/0/backend/mgmt/{mgmt.domid(name)}/0/epoch")
        equal("epoch", epoch, after)
    slow.end()


@case(timeout=240)
def module_goes_and_comes():
    """Dom0's module is unloaded and loaded: an open file in a guest survives, what it wrote meanwhile arrives."""
    name = guests()[0]
    with GuestFile(name, "Survivor") as there:
        must("rmmod", "mgmt")
        gone = lambda: "no" in mgmt.in_guest(name, "mgmtctl status | grep ^uplink")[1]
        check(until(gone, 30), "the guest does not notice")
        for number in range(5):
            there.write(message("Home", mgmt.MVM_COMPONENT, bytes([number])))
        must("xl", "pause", name)
        must("insmod", "/lab/mgmt.ko")
        with File("Home") as here:
            must("xl", "unpause", name)
            got = [here.read(60) for _ in range(5)]
            equal("what arrived", [bytes([n]) for n in range(5)], [m and m.payload for m in got])
            check(connected(name), "not connected again")
            here.write(message("Survivor", mgmt.vm(mgmt.domid(name)), b"back"))
            answer = there.read(30)
            check(answer and answer.payload == b"back", f"the open file got {answer}")
    mgmt.ready()


@case(timeout=240)
def daemon_killed():
    """mgmtd is killed and started again under traffic: nothing happens to the channels."""
    name = guests()[0]
    with Daemon() as daemon, Traffic(name) as traffic:
        daemon.kill()
        traffic.goes_on("without the daemon")
        with Daemon():
            traffic.goes_on("with another")
            time.sleep(1)
            traffic.goes_on("after it looked")


def watch(app, component):
    return message(app, component, mgmt.WATCH, kind=mgmt.PRESENCE)


def told(got):
    """Event and source of a presence message."""
    return got and (got.payload, got.source_component)


def hear(watchers, counts):
    """What each is told: so many messages, in any order."""
    return [sorted(told(watcher.read()) or () for _ in range(n)) for watcher, n in zip(watchers, counts)]


# Watches Home in Dom-M, in a guest that moves: what it is told is in files.
OBSERVER = r"""
rm -f /tmp/observed.*
(exec 3<>/dev/mgmt; printf 'bind Observer\n' >&3
echo %s | base64 -d | dd bs=65536 count=1 >&3
for i in 0 1 2 3; do dd bs=65536 count=1 <&3 >/tmp/observed.$i; done) >/dev/null 2>&1 </dev/null &
"""


# Asks Dom-M, and answers what it is asked when it is told to, in a guest that moves.
CLERK = r"""
rm -f /tmp/clerk.*
(exec 3<>/dev/mgmt; printf 'bind Clerk\n' >&3
echo %s | base64 -d | dd bs=65536 count=1 >&3
dd bs=65536 count=1 <&3 >/tmp/clerk.asked
while [ ! -e /tmp/clerk.go ]; do sleep 1; done
echo %s | base64 -d | dd bs=65536 count=1 >&3
dd bs=65536 count=1 <&3 >/tmp/clerk.answer) >/dev/null 2>&1 </dev/null &
"""


class Questions:
    """Two requests that are on their way while a guest moves: one of its own, and one that it is asked."""

    def __init__(self, name):
        self.name, self.file = name, File("Questions")
        self.held = self.file.account("uid:0")[0]["replies"]
        asks = message("Questions", mgmt.MVM_COMPONENT, b"its question", flags=mgmt.REQUEST, correlation=5)
        answers = message("Questions", mgmt.MVM_COMPONENT, b"its answer", kind=mgmt.REPLY, correlation=9)
        words = tuple(base64.b64encode(m.encode()).decode() for m in (asks, answers))
        must("guest", "-T", "60", name, CLERK % words, timeout=90)
        self.asked = self.file.read(30)
        equal("its question", b"its question", self.asked and self.asked.payload)
        self.file.write(
            message("Clerk", mgmt.vm(mgmt.domid(name)), b"a question", flags=mgmt.REQUEST, correlation=9)
        )
        check(until(lambda: mgmt.in_guest(name, "test -s /tmp/clerk.asked")[0] == 0, 30), "it is not asked")

    def end(self):
        """Both are answered: the answers go to the names that were asked from."""
        self.file.write(
            message("Clerk", self.asked.source_component, b"an answer", kind=mgmt.REPLY, correlation=5)
        )
        must("guest", self.name, "touch /tmp/clerk.go")
        got = self.file.read(60)
        equal("its answer", (mgmt.REPLY, 9, b"its answer"), got and (got.kind, got.correlation, got.payload))
        check(until(lambda: mgmt.in_guest(self.name, "test -s /tmp/clerk.answer")[0] == 0, 60), "it has no answer")
        _, output = mgmt.in_guest(self.name, "base64 /tmp/clerk.answer")
        got = mgmt.Message.decode(base64.b64decode(output))
        equal("the answer it got", (mgmt.REPLY, 5, b"an answer"), (got.kind, got.correlation, got.payload))
        equal("requests that still wait", self.held, self.file.account("uid:0")[0]["replies"])
        self.file.close()


def observed(name, number):
    status, output = mgmt.in_guest(name, f"base64 /tmp/observed.{number}")
    return mgmt.Message.decode(base64.b64decode(output)) if status == 0 and output.strip() else None


def need_memory(mib):
    for line in must("xl", "info").splitlines():
        if line.startswith("free_memory") and int(line.split(":")[1]) < mib:
            raise mgmt.Skip(f"less than {mib} MiB are free: see --spare-mem of scripts/lab")


@case(timeout=600)
def live_migration():
    """A PVH guest migrates live to the same host, under traffic; watchers hear that it moved; requests are answered."""
    need_memory(340)
    with open(RUNNER, "w") as f:
        f.write('shift\nexec "$@"\n')
    with Daemon(), Guest("mover", "pvh") as name, File("Home") as home:
        before = mgmt.domid(name)
        components = (mgmt.stable(bytes.fromhex(uuid(name).replace("-", ""))), mgmt.PLATFORM, mgmt.vm(before))
        watchers = [File(f"Watcher{number}") for number in range(3)]
        # Before there is traffic, which takes all the room that a user has.
        for watcher, component in zip(watchers, components):
            watcher.write(watch("Traffic", component))
        nobody = [(mgmt.DOWN, mgmt.vm(before)), None, (mgmt.DOWN, mgmt.vm(before))]
        for watcher, event in zip(watchers, nobody):
            equal("at first", event, told(watcher.read(2)))
        question = base64.b64encode(watch("Home", mgmt.MVM_COMPONENT).encode()).decode()
        must("guest", "-T", "60", name, OBSERVER % question, timeout=90)
        check(until(lambda: observed(name, 0), 30), f"{name}: told nothing of Dom-M")

        questions = Questions(name)
        slow = SlowReader(name)
        with Traffic(name) as traffic:
            up = (mgmt.UP, mgmt.vm(before))
            equal("up", [[up], [(mgmt.UP, home.info()["component"]), up], [up]], hear(watchers, (1, 2, 1)))
            must("xl", "migrate", "-s", f"sh {RUNNER}", name, "localhost", timeout=300)
            come_back(name)
            after = mgmt.domid(name)
            check(after != before, "it is the same domain")
            traffic.goes_on("after the migration")
            moved, down = (mgmt.MOVED, mgmt.vm(after)), (mgmt.DOWN, mgmt.vm(before))
            equal("moved", [[moved], [moved], [down]], hear(watchers, (1, 1, 1)))
        questions.end()
        slow.end()
        for watcher in watchers:
            watcher.close()
        check(until(lambda: observed(name, 1), 30), f"{name}: told nothing of the move")
        equal("in the guest", (mgmt.MOVED, home.info()["component"]), told(observed(name, 1)))


@case(timeout=600)
def save_and_restore():
    """A PV guest is saved and restored under traffic, and has no nodes until it has run for a while."""
    image = "/tmp/migrate.image"
    with Guest("saved", "pv") as name, Traffic(name) as traffic:
        must("xl", "save", name, image, timeout=200)
        must("xl", "restore", image, timeout=200)
        os.remove(image)
        mgmt.domid.cache_clear()
        must("guest-attach", name, timeout=200)
        time.sleep(3)
        check("no" in mgmt.in_guest(name, "mgmtctl status | grep ^uplink")[1], "connected without nodes")
        must("mgmtctl", "attach", name)
        check(connected(name), "not connected again")
        traffic.goes_on("after the restore")


@case(timeout=400)
def cancelled_suspend():
    """Guests are suspended under traffic, and go on as the same domains at once: a checkpoint."""
    image = "/tmp/migrate.image"
    for name in guests()[:2]:
        before = mgmt.domid(name)
        epoch = mgmt.xenstore(f"/local/domain/0/backend/mgmt/{before}/0/epoch")
        with Traffic(name) as traffic:
            must("xl", "save", "-c", name, image, timeout=200)
            os.remove(image)
            mgmt.domid.cache_clear()
            equal("domain", before, mgmt.domid(name))
            traffic.goes_on("after the checkpoint")
        equal("epoch", epoch, mgmt.xenstore(f"/local/domain/0/backend/mgmt/{before}/0/epoch"))


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
