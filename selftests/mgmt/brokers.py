#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Brokers of one policy in the deployments of the paper's Figure 5, and agents in Rust and Python."""

import os
import subprocess
import sys

import mgmt
from mgmt import PATIENCE, Failure, case, check, equal, guests

LIBRARY = "/lab/libmgmt-channel.so.0"
ESTABLISH = 2


class Program:
    """budget-broker in Dom0 or in a guest, and what it has printed."""

    def __init__(self, domain, arguments):
        self.domain, self.arguments = domain, arguments
        command = f"exec budget-broker {arguments}"
        if domain:
            # The shell there ends the program when its time is up, or is told to.
            self.tag = f"budget-{len(arguments)}-{abs(hash(arguments)) % 10000}"
            command = f"budget-broker {arguments} & echo $! >/tmp/{self.tag}; wait"
            full = ["guest", "-T", str(150 * PATIENCE), domain, command]
        else:
            full = ["bash", "-c", command]
        self.log = f"/tmp/brokers.{os.getpid()}.{len(PROGRAMS)}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(full, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        PROGRAMS.append(self)

    def lines(self):
        with open(self.log, errors="replace") as log:
            return log.read().split("\n")[:-1]

    def last(self):
        return (self.lines() or [""])[-1]

    def says(self, text, seconds=30):
        found = mgmt.until(lambda: text in self.last(), seconds)
        check(found, f"{self.domain or 'Dom0'}: {self.arguments}: no {text!r} but {self.lines()[-5:]}")

    def kill(self):
        if self.domain:
            mgmt.in_guest(self.domain, f"kill -9 $(cat /tmp/{self.tag})", 30)
        else:
            self.process.kill()
        self.process.wait(60 * PATIENCE)
        PROGRAMS.remove(self)


PROGRAMS = []


def stop_all():
    for program in PROGRAMS[:]:
        program.kill()


def name(guest):
    return f"vm:{mgmt.domid(guest)}"


@case(timeout=120)
def broker_in_dom_m():
    """5(a): the broker in Dom-M divides a budget among agents in two guests, also after it was killed."""
    first, second = guests()[:2]
    try:
        broker = Program(None, "dom-m 100")
        one = Program(first, "agent One Budget@mvm 60")
        one.says("granted 60")
        two = Program(second, "agent Two Budget@mvm 140")
        two.says("granted 70")
        one.says("granted 30")
        broker.kill()
        one.says("waiting: ")
        Program(None, "dom-m 50")
        one.says("granted 15")
        two.says("granted 35")
        one.kill()
        two.says("granted 50")
    finally:
        stop_all()


@case(timeout=120)
def broker_in_guest():
    """5(b): a broker in a guest divides what the one at the hardware grants it."""
    first, second = guests()[:2]
    try:
        Program(None, "dom-m 90")
        Program(first, "guest Budget@mvm")
        inner = Program(first, "agent Inner Budget@self 60")
        inner.says("granted 60")
        Program(first, "agent Other Budget@self 20")
        outer = Program(second, "agent Outer Budget@mvm 100")
        # 80 of 180 for the guest, and 60 of 80 of that for the agent.
        outer.says("granted 50")
        inner.says("granted 30")
    finally:
        stop_all()


@case(timeout=150)
def brokers_that_decide_together():
    """5(c): brokers in two guests, of which one leads; when it dies the other one does."""
    first, second = sorted(guests()[:2], key=mgmt.domid)
    try:
        leader = Program(first, "group 100")
        leader.says("leads")
        other = Program(second, "group 100")
        agents = [Program(guest, f"follower {app} 150") for guest, app in ((first, "One"), (second, "Two"))]
        ip = f"{name(first)[3:]}"
        for agent in agents:
            agent.says("granted 50 by Budget@vm:")
            check(agent.last().endswith(f"/{ip}") or agent.last().endswith(f":{ip}"), f"by whom? {agent.last()}")
        leader.kill()
        other.says("leads")
        ip = f"{name(second)[3:]}"
        for agent in agents:
            moved = mgmt.until(lambda a=agent: a.last().startswith("granted 50 ") and a.last().endswith(ip), 40)
            check(moved, f"does not follow: {agent.lines()[-5:]}")
    finally:
        stop_all()


def python():
    """The package, as a program elsewhere has it."""
    if not os.path.exists(LIBRARY):
        raise Failure(f"no {LIBRARY}: scripts/library makes it")
    os.environ["MGMT_CHANNEL_LIBRARY"] = LIBRARY
    sys.path.insert(0, "/lab/python")
    import mgmt_channel

    return mgmt_channel


# docs/broker.md, "On the wire": the framework's header for version 1, and a number as postcard has it.
OFFER = bytes([1, 0, 1, 0, 1, 0, 0, 0])
AGREED = bytes([1, 0, 1, 0, 0, 0, 0, 0])


def number(value):
    out = b""
    while value > 127:
        out += bytes([value % 128 | 128])
        value //= 128
    return out + bytes([value])


@case(timeout=90)
def python_agent():
    """An agent in Python asks a broker in Rust, in Dom-M and in a guest; and finds and watches it."""
    mc = python()
    first = guests()[0]
    with mc.Endpoint("PyAgent") as endpoint:
        for domain, whom in ((None, "Budget@self"), (first, f"Budget@{name(first)}")):
            watch = endpoint.watch(whom)
            first_told = watch.next(10)
            equal("the broker is not there yet", "down", first_told and first_told.event)
            try:
                endpoint.request(whom, app_header=OFFER, kind=ESTABLISH, timeout=5)
                check(False, "nobody is there, and answers")
            except (mc.NotThere, mc.Undeliverable):
                pass
            broker = Program(domain, "dom-m 100" if domain is None else "group 100")
            try:
                told = watch.next(20 * PATIENCE)
                equal("the broker comes", "up", told and told.event)
                check(endpoint.discover("Budget@platform", 2.0) == [told.who], "it is not found")
                answer = None

                def established():
                    nonlocal answer
                    try:
                        answer = endpoint.request(whom, app_header=OFFER, kind=ESTABLISH, timeout=5)
                    except mc.Terminated:  # it does not lead yet
                        return False
                    return True

                check(mgmt.until(established, 10), "no session")
                equal("the version", AGREED, answer and answer.payload)
                endpoint.send(whom, number(300), app_header=AGREED)
                order = endpoint.recv(10)
                equal("the grant", AGREED + number(100), order and order.payload)
            finally:
                broker.kill()
            told = watch.next(20)
            equal("the broker goes", "down", told and told.event)
            watch.close()
        mine = endpoint.send("Nobody@" + name(first), b"?")
        back = endpoint.recv(10)
        equal("what comes back", ("undeliverable", mine), back and (back.event, back.id))


@case(timeout=30)
def python_bundle():
    """Messages that a program in Python sends as one are received one by one, in order."""
    mc = python()
    payloads = [bytes([n]) * (n % 7) for n in range(100)]
    with mc.Endpoint("PyMany") as sender, mc.Endpoint("PyEach") as receiver:
        sender.send("PyEach@self", mc.bundle(payloads), flags=mc.BUNDLE)
        came = [receiver.recv(10) for _ in payloads]
        equal("payloads", payloads, [message and message.payload for message in came])
        check(receiver.recv(0.2) is None, "one too many")


@case(timeout=120)
def module_reload():
    """An endpoint gives its device back, the module is loaded anew, and it goes on."""
    mc = python()
    first = guests()[0]
    with mc.Endpoint("PyReload") as endpoint:
        watch = endpoint.watch("Reloaded@self")
        equal("at first", "down", watch.next(10).event)
        lost_id = endpoint.send("PyReload@self", b"to myself")
        check(endpoint.suspend(10), "it is not given back")
        status, output = mgmt.run("rmmod", "mgmt")
        if status:
            raise Failure(f"rmmod: {output}")
        try:
            endpoint.send("PyReload@self", b"x")
            check(False, "it sends without a device")
        except mc.NoDevice:
            pass
        mgmt.must("insmod", "/lab/mgmt.ko")
        endpoint.resume()
        events = [endpoint.recv(10).event for _ in range(2)]
        equal("it is told", ["lost", "restored"], events)
        check(lost_id > 0, "a message has no number")
        with mgmt.File("Reloaded"):
            told = [watch.next(10), watch.next(10)]
            equal("the watch goes on", ["down", "up"], [t and t.event for t in told])
        mgmt.ready()
        there = Program(first, "group 100")
        up = mgmt.until(lambda: endpoint.discover(f"Budget@{name(first)}", 0.5), 20)
        check(up, "the guest is not heard of")
        there.kill()


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
