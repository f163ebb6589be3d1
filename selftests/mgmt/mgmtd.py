#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""mgmtd: the policy it keeps, goals, leases on actuators, the audit log, and what is left when it is
killed."""

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import mgmt
from mgmt import File, GuestFile, case, check, equal, guests, message, must, note, until, vm

STATE = "/tmp/mgmtd.state"
POLICY = "/tmp/mgmtd.policy/rules"
LOG = "/tmp/mgmtd.log"
METRICS = "127.0.0.1:9643"
KILLS = int(os.environ.get("MGMTD_KILLS", "10"))


class Daemon:
    """mgmtd with a state of this test's own, as long as the block lasts."""

    def __init__(self, *options):
        self.options = options
        self.process = None

    def start(self):
        command = ["mgmtd", "--state", STATE, *self.options]
        with open(LOG, "a") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if not until(lambda: mgmt.run("mgmtctl", "observe")[0] == 0, 20):
            raise mgmt.Failure(f"mgmtd does not answer: {self.log()}")
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def log(self):
        with open(LOG) as log:
            return log.read()[-2000:]

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.process.terminate()
        try:
            equal("mgmtd's status", 0, self.process.wait(30 * mgmt.PATIENCE))
        except subprocess.TimeoutExpired:
            self.kill()
            mgmt.fail(f"mgmtd does not end: {self.log()}")


def fresh():
    shutil.rmtree(STATE, ignore_errors=True)
    shutil.rmtree(os.path.dirname(POLICY), ignore_errors=True)
    os.makedirs(os.path.dirname(POLICY))
    with open(LOG, "w"), File() as f:
        f.load_policy("")
    mgmt.debugfs("endpoints")


def put_policy(text):
    """As an editor does: written beside it, and moved."""
    with open(f"{POLICY}.new", "w") as f:
        f.write(text)
    os.rename(f"{POLICY}.new", POLICY)


def rules():
    with File() as f:
        return f.read_policy(4 << 20)[0]


def refused(text, *command):
    status, output = mgmt.run(*command)
    return check(status == 1 and text in output, f"{command}: status {status}: {output}")


def cap(name):
    """The cap that Xen's scheduler has for a guest."""
    lines = must("xl", "sched-credit2", "-d", name).splitlines()
    return int(lines[-1].split()[-1])


def load(text, name="/tmp/mgmtd.rules"):
    with open(name, "w") as f:
        f.write(text)
    return must("mgmtctl", "policy", "load", name)


@case(timeout=120)
def policy():
    """Policies are loaded, kept, shown, rolled back, and loaded again when the bridge has lost them"""
    fresh()
    with Daemon("--no-attach") as daemon:
        check("1 rule, version 1" in load("allow vm:1 -> vm:2\n"), "load")
        check("2 rules, version 2" in load("allow vm:1 -> vm:2\ndeny * -> *\n"), "load")
        refused("a component is expected", "sh", "-c", "echo 'allow moon -> *' | mgmtctl policy load -")
        equal("the rules after a mistake", "allow vm:1 -> vm:2\ndeny * -> *\n", rules())
        history = must("mgmtctl", "policy", "history").splitlines()
        check(history[1].startswith("* version 2: 2 rules of /tmp/mgmtd.rules"), f"history: {history}")
        must("mgmtctl", "policy", "rollback")
        equal("the rules after the rollback", "allow vm:1 -> vm:2\n", rules())
        equal("the former ones", "allow vm:1 -> vm:2\ndeny * -> *", must("mgmtctl", "policy", "show", "--version", "2"))
        refused("no policy before", "mgmtctl", "policy", "rollback")
        refused("not kept", "mgmtctl", "policy", "rollback", "--to", "9")
        daemon.kill()
        with File() as f:
            f.load_policy("")
        daemon.start()
        equal("the rules of a bridge that had lost them", "allow vm:1 -> vm:2\n", rules())
        audit = must("mgmtctl", "audit")
        for action in ("policy.load version 2", "policy.rollback version 1", "policy.restore version 1"):
            check(f"uid 0 by mgmtctl: {action}" in audit or f"mgmtd: {action}" in audit, f"{action}: {audit}")
        status = must("mgmtctl", "status")
        check("policy      version 1: 1 rules" in status and "brokers     none" in status, status)
    check(mgmt.run("mgmtctl", "plan")[1].startswith("mgmtctl: mgmtd does not run"), "without mgmtd")


@case(timeout=120)
def policy_file():
    """A file of rules is followed; a mistake in it changes nothing and is told with its place"""
    fresh()
    put_policy("allow vm:1 -> vm:2\n")
    with Daemon("--no-attach", "--policy", POLICY) as daemon:
        check(until(lambda: rules() == "allow vm:1 -> vm:2\n"), "the file was not loaded")
        put_policy("allow vm:3 -> vm:4\n")
        check(until(lambda: rules() == "allow vm:3 -> vm:4\n"), "the change was not followed")
        put_policy("allow vm:3 -> vm:4\nallow moon -> *\n")
        check(until(lambda: f"{POLICY}:2:7: a component is expected" in daemon.log()), daemon.log())
        equal("the rules after a mistake", "allow vm:3 -> vm:4\n", rules())
        check("[refused: line 2, column 7" in must("mgmtctl", "audit"), "the mistake is not in the log")
        put_policy("deny vm:5 -> *\n")
        check(until(lambda: rules() == "deny vm:5 -> *\n"), "the next change was not followed")
        # By hand, until the file changes or SIGHUP says so; a start does not.
        load("deny vm:6 -> *\n")
        daemon.kill()
        daemon.start()
        equal("the rules after a start", "deny vm:6 -> *\n", rules())
        daemon.process.send_signal(signal.SIGHUP)
        check(until(lambda: rules() == "deny vm:5 -> *\n"), "SIGHUP was not followed")


@case(timeout=200)
def ten_thousand_rules():
    """10,000 rules are loaded again and again under traffic, and no message is lost"""
    fresh()
    first, second = guests()[:2]
    a, b = mgmt.domid(first), mgmt.domid(second)
    count = 6000

    def text(number):
        many = "".join(f"deny App{i}@vm:{60000 + i} -> Other@vm:*\n" for i in range(9998))
        return f"# {number}\n{many}allow vm:{a} -> vm:{b}\nallow vm:{b} -> vm:{a}\n"

    timeout = f"--timeout {150 * mgmt.PATIENCE}"
    with Daemon("--no-attach"):
        load(text(0))
        sides = [
            subprocess.Popen(
                ["guest", "-T", "170", name, f"mgmt-test {timeout} duplex --app Reload --count {count} --to Reload@vm:{to}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            for name, to in ((first, b), (second, a))
        ]  # fmt: skip
        loads, longest = 0, 0.0
        while loads < 3 or any(side.poll() is None for side in sides):
            began = time.monotonic()
            load(text(loads + 1))
            longest = max(longest, time.monotonic() - began)
            loads += 1
        for name, side in zip((first, second), sides):
            output = side.communicate()[0].decode().strip()
            perfect = f'"received":{count},"lost":0,"late":0,"damaged":0'
            check(side.returncode == 0 and perfect in output, f"{name}: {output}")
        note(f"{loads} loads, the longest {longest:.2f} s, with mgmtctl's own check")
    with File() as f:
        f.load_policy("")


@case(timeout=120)
def strangers():
    """Guests may not ask, nor users; other versions and what is no request are refused"""
    fresh()
    header = b"MCT\x01"
    plan = b"\0\0\x01x" + b"\x08"
    with Daemon("--no-attach"), File("Asker") as here, GuestFile(guests()[0], "Asker") as there:

        def ask(file, to, head=header, data=plan):
            file.write(message("Mgmtd", to, head + data, flags=mgmt.REQUEST, correlation=5, app_header_length=len(head)))
            answer = file.read(10)
            return (answer.kind, answer.payload[4:6]) if answer else None

        equal("a plan", (mgmt.REPLY, b"\0\x07"), ask(here, mgmt.SELF))
        equal("of a guest", (mgmt.REPLY, b"\x01\x02"), ask(there, mgmt.MVM_COMPONENT))
        equal("another version", (mgmt.REPLY, b"\x01\0"), ask(here, mgmt.SELF, b"MCT\x02"))
        equal("no header", (mgmt.REPLY, b"\x01\0"), ask(here, mgmt.SELF, b""))
        equal("no such command", (mgmt.REPLY, b"\x01\x01"), ask(here, mgmt.SELF, data=plan[:-1] + b"\x7f"))
        equal("too much", (mgmt.REPLY, b"\x01\x01"), ask(here, mgmt.SELF, data=plan + b"\0"))
        # A user to whom an administrator has given the device.
        os.chmod(mgmt.DEVICE, 0o666)
        try:
            status, output = mgmt.run("busybox", "su", "nobody", "-s", "/bin/sh", "-c", "mgmtctl observe on")
        finally:
            os.chmod(mgmt.DEVICE, 0o600)
        check(status == 1 and "only root may ask" in output, f"a user: {status} {output}")
        equal("observe-only", "off", must("mgmtctl", "observe"))


@case(timeout=200)
def actuators():
    """An actuator is leased, limited, returned to its default, planned, and only observed"""
    fresh()
    name = guests()[0]
    target = f"vm:{mgmt.domid(name)}"
    actuate = ("mgmtctl", "actuator", "set", "cpu-cap", target)
    with Daemon("--no-attach") as daemon:
        must(*actuate, "60", "--as", "First", "--why", "a test")
        equal("the cap", 60, cap(name))
        refused("First holds it", *actuate, "70", "--as", "Second")
        must("mgmtctl", "actuator", "release", "cpu-cap", target, "--as", "First")
        equal("the cap, given back", 0, cap(name))
        # Nobody renews.
        must(*actuate, "60", "--as", "First", "--ttl", "3")
        check(until(lambda: cap(name) == 0, 20), "the cap stays when its lease has ended")
        # Nor does who was killed with the daemon.
        must(*actuate, "50", "--as", "First", "--ttl", "5")
        daemon.kill()
        equal("the cap while mgmtd is dead", 50, cap(name))
        daemon.start()
        check(until(lambda: cap(name) == 0, 25), "the cap stays after mgmtd was killed")
        must(*actuate, "80", "--as", "First")
        refused("smaller change", *actuate, "81", "--as", "First")
        must("mgmtctl", "observe", "on")
        refused("observe-only", *actuate, "40", "--as", "First", "--why", "too hot")
        equal("the cap, observed", 80, cap(name))
        plan = must("mgmtctl", "plan")
        check(f"cpu-cap {target}: 80 -> 40 % of a CPU: would be set" in plan and "too hot" in plan, plan)
        daemon.kill()
        daemon.start()
        equal("observe-only after a crash", "on", must("mgmtctl", "observe"))
        must("mgmtctl", "observe", "off")
        must("mgmtctl", "actuator", "release", "cpu-cap", target, "--as", "First")
        refused("there is no", *actuate[:-1], "vm:31999", "40")
        refused("a value from 0", *actuate, "70000")
        audit = must("mgmtctl", "audit", "--only", "actuation")
        for text in (
            f"First: actuate cpu-cap {target}: 0 -> 60: a test",
            f"First: return cpu-cap {target}: 60 -> 0 (safe default): the lease of First ended: not renewed for 3.0 s",
            "80 -> 40: too hot [refused: observe-only]",
        ):
            check(text in audit, f"{text}: {audit}")


@case(timeout=120)
def goals():
    """Goals are checked, kept over a crash, and reach the agents of the power broker"""
    fresh()
    with Daemon("--no-attach", "--broker", "power", "--simulate", "--start", "lowest") as daemon:
        refused("colour", "mgmtctl", "goal", "set", "Power", "colour", "red")
        refused("lowest cap to the highest", "mgmtctl", "goal", "set", "Power", "states", "[50, 20]")
        must("mgmtctl", "goal", "set", "Other", "any", "thing")
        name = guests()[0]
        agent = "mgmt-agent --name here >/tmp/agent.log 2>&1 </dev/null & echo $!"
        pid = must("guest", name, agent)
        try:
            wanted = f"cpu-cap vm:{mgmt.domid(name)}: 0 -> 20 % of a CPU: set"
            check(until(lambda: wanted in mgmt.run("mgmtctl", "plan")[1], 20), f"{mgmt.run('mgmtctl', 'plan')} {daemon.log()}")
            must("mgmtctl", "goal", "set", "Power", "sla_ms", "35")
            must("mgmtctl", "goal", "set", "Power", "states", "[33, 66]")
            equal("the goals", ["Other any = thing", "Power sla_ms = 35", "Power states = [33, 66]"], must("mgmtctl", "goal", "list").splitlines())
            changed = f"cpu-cap vm:{mgmt.domid(name)}: 20 -> 33 % of a CPU: set"
            check(until(lambda: changed in mgmt.run("mgmtctl", "plan")[1], 30), f"{mgmt.run('mgmtctl', 'plan')} {daemon.log()}")
            daemon.kill()
            daemon.start()
            # What is simulated has forgotten it.
            again = f"cpu-cap vm:{mgmt.domid(name)}: 0 -> 33 % of a CPU: set"
            check(until(lambda: again in mgmt.run("mgmtctl", "plan")[1], 30), f"{mgmt.run('mgmtctl', 'plan')} {daemon.log()}")
        finally:
            mgmt.in_guest(name, f"kill {pid}")
        must("mgmtctl", "goal", "unset", "Power", "sla_ms")
        refused("has no goal", "mgmtctl", "goal", "unset", "Power", "sla_ms")
        check("goal.unset Power sla_ms: 35 -> (none)" in must("mgmtctl", "audit", "goal"), "not in the log")


@case(timeout=90)
def looking_on():
    """Metrics, endpoints, links, the view, the trace, completions and manual pages"""
    fresh()
    name = guests()[0]
    with Daemon("--no-attach", "--metrics", METRICS):
        host, port = METRICS.split(":")
        with socket.create_connection((host, int(port)), 10) as s:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        for line in (
            "HTTP/1.1 200 OK",
            "mgmtd_observe_only 0",
            'mgmtd_requests_total{outcome="done"}',
            f'mgmt_link_connected{{domain="{mgmt.domid(name)}"}} 1',
            'mgmt_account_refusals_total{account="uid:0"}',
            "# EOF",
        ):
            check(line in text, f"metrics without {line}: {text[:3000]}")
        endpoints = must("mgmtctl", "endpoints")
        check("Mgmtd " in endpoints and "uid:0" in endpoints, endpoints)
        check(f"vm:{mgmt.domid(name)} " in must("mgmtctl", "links"), "links")
        view = must("mgmtctl", "watch", "--count", "2", "--interval", "300")
        check("RX/S" in view and "daemon      mgmtd" in view, view)
        if not os.path.isdir("/sys/kernel/tracing/events"):
            must("mount", "-t", "tracefs", "none", "/sys/kernel/tracing")
        tracing = ["mgmtctl", "trace", "--app", "Traced", "--count", "3", "--seconds", "20"]
        tracer = subprocess.Popen(tracing, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        tracer.stderr.readline()
        with File("Traced") as f, File("Aside") as g:
            g.write(message("Aside", mgmt.SELF, b"not this"))
            g.write(message("Traced", mgmt.SELF, b"this", correlation=77))
            f.read()
            output = tracer.communicate(timeout=40 * mgmt.PATIENCE)[0].decode()
        events = [line.split()[1] for line in output.splitlines()]
        equal("what was traced", ["deliver:", "route:", "send:"], sorted(events))
        check("correlation=77" in output and "Aside@vm:0 destination=Aside" not in output, output)
        equal("what is left of it", [], os.listdir("/sys/kernel/tracing/instances"))
    check("complete" in must("mgmtctl", "generate", "completions", "bash"), "completions")
    must("mgmtctl", "generate", "man", "/tmp/mgmtd.man")
    check("mgmtctl-policy-load.1" in os.listdir("/tmp/mgmtd.man"), f"{os.listdir('/tmp/mgmtd.man')}")


class Asker(threading.Thread):
    """Sets a goal of its own to 1, 2, … and notes what was acknowledged, and what may be done or not."""

    def __init__(self, number, command):
        super().__init__()
        self.number, self.command = number, command
        self.done, self.asked, self.acknowledged = 0, 0, 0
        # Asked of a daemon that was killed before it answered.
        self.maybe = set()
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            self.asked += 1
            status, output = mgmt.run(*self.command(self.asked))
            if status == 0:
                self.done = self.asked
                self.acknowledged += 1
            elif "may be done or not" in output:
                self.maybe.add(self.asked)
            elif self.over.wait(0.05):
                return


def killed(kills, seed):
    random.seed(seed)
    note(f"{kills} kills, seed {seed}")
    fresh()
    name = guests()[0]
    target = f"vm:{mgmt.domid(name)}"

    def load_numbered(number):
        with open("/tmp/mgmtd.numbered", "w") as f:
            f.write(f"# {number}\nallow * -> *\n")
        return "mgmtctl", "policy", "load", "--kept", "/tmp/mgmtd.numbered"

    def numbers():
        """What is there of each: the goals, the policy in the bridge, the cap that is leased."""
        found = dict(line.split(" counter = ") for line in must("mgmtctl", "goal", "list").splitlines())
        leases = [line.split() for line in must("mgmtctl", "actuator", "list").splitlines()[1:]]
        # It may be held, and nothing set yet.
        lease = next((int(line[2].replace("-", "0")) for line in leases if line[1] == target), 0)
        text = rules()
        status = must("mgmtctl", "status")
        check("the bridge has other rules" not in status, status)
        return [int(found.get("A0", 0)), int(found.get("A1", 0)), int(text[2:].split("\n")[0]) if text else 0, lease]

    askers = [
        Asker(0, lambda n: ("mgmtctl", "goal", "set", "A0", "counter", str(n))),
        Asker(1, lambda n: ("mgmtctl", "goal", "set", "A1", "counter", str(n))),
        Asker(2, load_numbered),
        # Each is far enough from the last; the limit of the rate refuses some.
        Asker(3, lambda n: ("mgmtctl", "actuator", "set", "cpu-cap", target, str(5 * n), "--as", "Asker", "--ttl", "600")),
    ]
    daemon = Daemon("--simulate")
    daemon.start()
    acknowledged = 0
    with mgmt.Bystander(guests()[1], 1000) as traffic:
        for kill in range(kills):
            running = [Asker(asker.number, asker.command) for asker in askers]
            for asker, former in zip(running, askers):
                asker.done, asker.asked = former.done, former.asked
                asker.start()
            # Each kind of change has its turn; then any moment.
            awaited = running[kill % len(running)]
            if not until(lambda: awaited.acknowledged > 0, 30):
                mgmt.fail(f"kill {kill}: nothing of {awaited.number} is acknowledged")
            time.sleep(random.uniform(0, 0.3) * mgmt.PATIENCE)
            daemon.kill()
            for asker in running:
                asker.over.set()
            for asker in running:
                asker.join(60)
            askers = running
            acknowledged += sum(asker.acknowledged for asker in askers)
            daemon.start()
            found = numbers()
            for asker, number in zip(askers, found):
                unit = 5 if asker.number == 3 else 1
                known = {n * unit for n in asker.maybe | {asker.done}}
                check(number in known, f"kill {kill}, {asker.number}: {known} expected, {number} found")
                asker.done = number // unit
            if mgmt._failed:
                break
    note(f"{acknowledged} changes acknowledged, {traffic.rounds} rounds of traffic")
    records = int(must("mgmtctl", "status").split("records     ")[1].split()[0])
    check(records >= acknowledged, f"{records} records")
    must("mgmtctl", "actuator", "release", "cpu-cap", target, "--as", "Asker")
    daemon.__exit__()
    with File() as f:
        f.load_policy("")


@case(timeout=max(200, 20 * KILLS))
def killed_under_load():
    """mgmtd killed at random moments forgets nothing that it acknowledged; channels stay up"""
    killed(KILLS, int(os.environ.get("MGMTD_SEED", random.randrange(1 << 30))))


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
