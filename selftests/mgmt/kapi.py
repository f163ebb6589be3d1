#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The kernel API: the sample agents, in C and in Rust, in Dom0 and in a guest."""

import errno
import subprocess
import time

import mgmt
from mgmt import (
    MVM_COMPONENT, NO_ENDPOINT, PEER_GONE, REPLY, REQUEST, SELF, UNDELIVERABLE, File, GuestFile,
    case, check, equal, guests, message, vm,
)  # fmt: skip

# Module, its App_ID, and what it answers.
C = ("agent_c", "AgentC", b"hello from the kernel, in C")
RUST = ("agent_rust", "AgentRust", b"hello from the kernel, in Rust")
GUEST = guests()[0] if guests() else ""


class Agent:
    """A sample agent that is loaded, in Dom0 or in a guest."""

    def __init__(self, module, guest=None, arguments=""):
        self.module, self.guest = module, guest
        self.sh(f"insmod /lab/{module}.ko {arguments}")

    def sh(self, script):
        return sh(self.guest, script)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sh(f"rmmod {self.module}")

    def log(self):
        return self.sh("dmesg")


def sh(guest, script, timeout=60):
    if guest:
        return mgmt.must("guest", "-T", str(timeout * mgmt.PATIENCE), guest, script, timeout=timeout + 10)
    return mgmt.must("sh", "-c", script, timeout=timeout)


def ask(file, app, component, correlation=7):
    file.write(message(app, component, b"who?", flags=REQUEST, correlation=correlation, deadline_ms=30000))


def answers(file, component, agents=(C, RUST)):
    """Each agent there answers a request of this file."""
    for _, app, greeting in agents:
        ask(file, app, component)
        reply = file.read()
        if check(reply is not None, f"{app}: no answer"):
            equal(f"{app}: kind", REPLY, reply.kind)
            equal(f"{app}: correlation", 7, reply.correlation)
            equal(f"{app}: payload", greeting, reply.payload)


@case
def ready():
    """The module is loaded, the guests are connected."""
    mgmt.ready()


@case
def needs_the_bridge_loaded():
    """mgmt.ko cannot be unloaded while an agent is loaded."""
    with Agent(C[0]), Agent(RUST[0]):
        status, output = mgmt.run("rmmod", "mgmt")
        check(status != 0 and "in use" in output, f"rmmod: {status}, {output}")
        answers_here()


def answers_here():
    with File("Asker") as asker:
        answers(asker, SELF)


@case(timeout=120)
def answers_a_guest():
    """Agents in Dom0 answer a program in a guest."""
    with Agent(C[0]), Agent(RUST[0]), GuestFile(GUEST, "Asker") as asker:
        answers(asker, MVM_COMPONENT)


@case(timeout=120)
def answers_dom0():
    """Agents in a guest answer a program in Dom0."""
    with Agent(C[0], GUEST), Agent(RUST[0], GUEST), File("Asker") as asker:
        answers(asker, vm(mgmt.domid(GUEST)))


def asks(module, guest, arguments, broker, name, forger=None):
    """An agent asks a broker in the other domain when it is loaded; it takes no answer of another."""
    mark = f"mark {time.monotonic_ns()}"
    sh(guest, f"echo {mark} >/dev/kmsg")
    load = f"insmod /lab/{module}.ko {arguments}; dmesg; rmmod {module}"
    command = ["guest", "-T", "90", guest, load] if guest else ["sh", "-c", load]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as loading:
        question = broker.read(30)
        if check(question is not None, f"{module}: no question"):
            equal(f"{module}: payload", b"who are you?", question.payload)
            check(question.flags & REQUEST, f"{module}: it is no request")
            reply = message(
                question.source_app, question.source_component, b"forged", kind=REPLY,
                correlation=question.correlation,
            )  # fmt: skip
            if forger is not None:
                forger.write(reply)
            reply.payload = f"the broker of {name}".encode()
            reply.length = len(reply.payload)
            broker.write(reply)
        output = loading.communicate(timeout=90 * mgmt.PATIENCE)[0].decode(errors="replace")
    check(f"{module}: Hello answered: the broker of {name}" in output.split(mark)[-1], output[-500:])


@case(timeout=180)
def asks_a_broker_in_a_guest():
    """Agents in Dom0 ask a program in a guest, and get its answer."""
    where = mgmt.domid(GUEST)
    with GuestFile(GUEST, "Hello") as broker, GuestFile(GUEST, "Forger") as forger:
        asks(C[0], None, f"broker=Hello vm={where}", broker, "a guest", forger)
        asks(RUST[0], None, f"vm={where}", broker, "a guest", forger)


@case(timeout=180)
def asks_a_broker_in_dom0():
    """Agents in a guest ask a program in Dom0, and get its answer."""
    with File("Hello") as broker:
        asks(C[0], GUEST, "broker=Hello", broker, "Dom0")
        asks(RUST[0], GUEST, "vm=0", broker, "Dom0")


@case(timeout=120)
def hears_why_not():
    """A request that cannot be delivered ends with the errno of the reason."""
    for guest, arguments in (None, "broker=Nobody"), (GUEST, "broker=Nobody"):
        with Agent(C[0], guest, arguments) as agent:
            text = "agent_c: Nobody did not answer: -ECONNREFUSED"
            check(text in agent.log(), f"{guest or 'Dom0'}: not in the log: {text}")


@case(timeout=120)
def many_at_once():
    """Requests of several are answered each, in order, also in a burst."""
    with Agent(C[0]), Agent(RUST[0]):
        files = [File(f"Asker{i}") for i in range(4)]
        for number in range(100):
            for file in files:
                for _, app, _ in (C, RUST):
                    ask(file, app, SELF, number)
        for file in files:
            got = {}
            for _ in range(200):
                reply = file.read()
                if not check(reply is not None, "an answer is missing"):
                    break
                got.setdefault(reply.payload, []).append(reply.correlation)
            for _, app, greeting in C, RUST:
                equal(f"{app}: order", list(range(100)), got.get(greeting))
            file.close()


@case(timeout=180)
def unloads_under_load():
    """An agent is unloaded while requests come in: each is answered or comes back."""
    with File("Asker", nonblock=True) as asker:
        for module, app, _ in (C, RUST) * 5:
            agent = Agent(module)
            unload = subprocess.Popen(["rmmod", module])
            sent = 0
            while unload.poll() is None:
                try:
                    ask(asker, app, SELF, sent + 1)
                    sent += 1
                except OSError as e:
                    # Full for now, or unloaded.
                    check(e.errno in (errno.EAGAIN, errno.ECONNREFUSED, errno.ENOBUFS), f"{app}: {e}")
                    while asker.readable():
                        sent -= heard(asker, app)
            equal(f"{module}: rmmod", 0, unload.wait())
            while sent and asker.readable(5):
                sent -= heard(asker, app)
            equal(f"{agent.module}: requests that nobody heard of", 0, sent)


SERIAL = b"CZ342"
HARDWARE = mgmt.hardware(SERIAL)


@case(timeout=240)
def hardware_by_policy():
    """Hardware that an agent serves: denied to guests by default, passed, or virtualized by a broker."""
    name = f"vm:{mgmt.domid(GUEST)}"
    with Agent(C[0], None, f"serial={SERIAL.decode()}"), GuestFile(GUEST, "Asker") as asker, File() as rules:
        with File("Asker") as here:
            answers(here, HARDWARE, [C])

        rules.load_policy("")
        hits = built_in_hits("guest-to-hardware")
        refused(asker)
        check(built_in_hits("guest-to-hardware") > hits, "the built-in rule has not decided")
        explained(name, "deny", "guest-to-hardware")

        rules.load_policy(f"allow {name} -> AgentC@hw:*")
        answers(asker, HARDWARE, [C])
        explained(name, "allow", f"line 1: allow {name} -> AgentC@hw:*")

        rules.load_policy(f"deny {name} -> AgentC@hw:{SERIAL.decode()}\nallow {name} -> *")
        refused(asker)
        explained(name, "deny", f"line 1: deny {name} -> AgentC@hw:{SERIAL.decode()}")

        rules.load_policy("through Virtual@mvm vm:* -> AgentC@hw:*")
        with File("Virtual") as broker:
            virtualized(asker, broker)
        rules.load_policy(mgmt.OPEN_POLICY)


def virtualized(asker, broker):
    """A guest's question reaches the broker, who asks the hardware, and changes the answer."""
    ask(asker, "AgentC", HARDWARE)
    question = broker.read()
    if not check(question is not None, "the broker hears nothing"):
        return
    equal("meant for", HARDWARE, question.component)
    ask(broker, "AgentC", HARDWARE, 8)
    answer = broker.read()
    if not check(answer is not None and answer.kind == REPLY, f"no answer of the hardware: {answer}"):
        return
    equal("from", HARDWARE, answer.source_component)
    changed = message(
        question.source_app, question.source_component, b"virtual: " + answer.payload,
        kind=REPLY, correlation=question.correlation,
    )  # fmt: skip
    broker.write(changed)
    reply = asker.read()
    if check(reply is not None, "the guest hears nothing"):
        equal("payload", b"virtual: " + C[2], reply.payload)


def refused(asker):
    ask(asker, "AgentC", HARDWARE)
    back = asker.read()
    if check(back is not None, "nothing came back"):
        equal("kind and reason", (UNDELIVERABLE, mgmt.DENIED), (back.kind, back.reason))


def built_in_hits(name):
    names = ["undeliverable", "same-domain", "from-mvm", "to-mvm", "guest-to-guest", "guest-to-hardware", "elsewhere"]
    with File() as rules:
        return rules.rule(mgmt.RULE_BUILT_IN + names.index(name))[1]


def explained(source, verdict, why):
    """mgmtctl names the rule that decides, of those that hold."""
    text = mgmt.must("mgmtctl", "policy", "explain", f"Asker@{source}", f"AgentC@hw:{SERIAL.decode()}", "data")
    check(text.startswith(verdict) and why in text, f"explain: expected {verdict}, {why}; got: {text}")


@case(timeout=120)
def hardware_is_discovered():
    """Hardware is found, and its coming and going told, in Dom0, which may reach it."""
    with File("Asker") as asker:
        watch = message("AgentC", HARDWARE, mgmt.WATCH, kind=mgmt.PRESENCE)
        asker.write(watch)
        equal("before", mgmt.DOWN, told(asker))
        with Agent(C[0], None, f"serial={SERIAL.decode()}"):
            equal("loaded", mgmt.UP, told(asker))
            asker.write(message("AgentC", mgmt.PLATFORM, kind=mgmt.DISCOVER, flags=mgmt.BROADCAST | REQUEST))
            found = asker.read()
            if check(found is not None, "nobody answers"):
                equal("found", HARDWARE, found.source_component)
        equal("unloaded", mgmt.DOWN, told(asker))


def told(file):
    notice = file.read()
    if not check(notice is not None, "no presence message"):
        return None
    equal("of", HARDWARE, notice.source_component)
    return notice.payload


@case(timeout=60)
def hardware_is_the_management_vms():
    """In a guest, nobody can serve hardware."""
    status, output = mgmt.in_guest(GUEST, f"insmod /lab/agent_c.ko serial={SERIAL.decode()}")
    check(status != 0 and "not supported" in output.lower(), f"{status}: {output}")


def heard(file, app):
    """Reads what became of one request."""
    answer = file.read()
    fine = answer.kind == REPLY or answer.kind == UNDELIVERABLE and answer.reason in (PEER_GONE, NO_ENDPOINT)
    check(fine, f"{app}: {answer}")
    return 1


if __name__ == "__main__":
    mgmt.main(need_guests=1)
