#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What one user or guest may hold, and that nobody else pays for it."""

import contextlib
import errno
import os
import resource
import subprocess
import time

import mgmt
from mgmt import (
    BROADCAST, DEADLINE, MVM_COMPONENT, NO_UNDELIVERABLE, PEER_GONE, PRESENCE, REPLY, REQUEST, SELF, UNDELIVERABLE,
    WATCH, File, GuestFile, case, check, equal, guests, message, raises,
)  # fmt: skip
from traffic import connected

# Users that exist nowhere else.
ANN, BOB = 60001, 60002


@contextlib.contextmanager
def device_for_everybody():
    os.chmod(mgmt.DEVICE, 0o666)
    try:
        yield
    finally:
        os.chmod(mgmt.DEVICE, 0o600)


def open_as(uid, app=None, **options):
    """A file that this user opened."""
    with device_for_everybody():
        os.seteuid(uid)
        try:
            return File(app, **options)
        finally:
            os.seteuid(0)


def used(owner, slot):
    with File() as f:
        return f.account(owner)[0][slot]


def limit(owner, slot):
    with File() as f:
        return f.account(owner)[1][slot]


def refusals(owner):
    with File() as f:
        return f.account(owner)[2]


def fill(sender, app, payload=bytes(8000)):
    """Writes without waiting until there is no room; returns how many were accepted."""
    for accepted in range(100_000):
        try:
            sender.write(message(app, SELF, payload))
        except BlockingIOError:
            return accepted
    raise mgmt.Failure("the room has no end")


def told_of(receiver, sender):
    """How many lines of the kernel's log say that a receiver refused a sender: one in each life of an account."""
    status, log = mgmt.run("dmesg")
    equal("status of dmesg", 0, status)
    return log.count(f"{receiver}: no room for more of {sender},")


@case
def one_user_fills_its_own_account():
    """A user's readers that do not read fill that user's account: another's still get all."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        lazy = [enter(open_as(ANN, f"Lazy{i}")) for i in range(6)]
        lively = enter(open_as(BOB, "Lively"))
        sender = enter(File("Sender", nonblock=True))
        accepted = [fill(sender, f"Lazy{i}") for i in range(6)]
        mgmt.note(f"accepted: {accepted}")
        most = limit(f"uid:{ANN}", "bytes")
        held = used(f"uid:{ANN}", "bytes")
        equal("charged", sum(accepted) * (8000 + mgmt.HEADER_LEN), held)
        # Bulk gets three quarters of a lone sender's half.
        check(most * 3 // 8 - 10_000 <= held <= most * 3 // 8, f"{held} of {most} bytes are held")
        check(accepted[0] == accepted[1] > accepted[5], "the account does not stop before its last queue does")
        check(refusals(f"uid:{ANN}") >= 6, f"{refusals(f'uid:{ANN}')} refusals")
        # What is urgent has the last quarter; another sender has a share; another receiver is as ever.
        sender.write(message("Lazy5", SELF, b"urgent", priority=200))
        other = enter(open_as(BOB, "Other", nonblock=True))
        other.write(message("Lazy5", SELF, b"of another"))
        sender.write(message("Lively", SELF, bytes(8000)))
        equal("the other user's reader", 8000, len(lively.read(5).payload))
        # Who is read has room again, if less than before: there are two senders now.
        for i in (0, 1):
            for _ in range(accepted[i]):
                lazy[i].read(5)
        sender.write(message("Lazy5", SELF, bytes(8000)))
    equal("charged afterwards", 0, used("uid:0", "bytes"))


@case
def waits_for_the_account():
    """A blocking write waits for room in the account, and for its receiver; a signal or a deadline end it."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        lazy = [enter(open_as(ANN, f"Lazy{i}")) for i in range(6)]
        sender = enter(File("Sender", nonblock=True))
        accepted = [fill(sender, f"Lazy{i}") for i in range(6)]
        check(accepted[5] < accepted[0], f"the queue is short, and not the account: {accepted}")
        sender.nonblock(False)
        raises(errno.ETIMEDOUT, "a deadline", sender.write, message("Lazy5", SELF, bytes(8000), deadline_ms=300))

        def writes():
            child = os.fork()
            if child == 0:
                status = 9
                try:
                    for f in lazy:
                        f.close()
                    sender.write(message("Lazy5", SELF, bytes(8000)))
                    status = 0
                except OSError as e:
                    status = e.errno
                finally:
                    os._exit(status)
            time.sleep(0.5)
            equal("the writer waits", (0, 0), os.waitpid(child, os.WNOHANG))
            return child

        def ends(child):
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        child = writes()
        for _ in range(2):
            lazy[0].read(5)
        equal("with room in another queue", 0, ends(child))
        fill_up = lambda: [sender.nonblock(True), fill(sender, "Lazy5"), sender.nonblock(False)]
        fill_up()
        child = writes()
        lazy[5].close()
        equal("without its receiver", errno.ECONNREFUSED, ends(child))


@case
def refusals_are_told_once():
    """The log says once for each pair that there was no room, however often there was none."""
    with open_as(ANN, "Lazy"), open_as(BOB, "Sender", nonblock=True) as sender:
        told = told_of(f"uid:{ANN}", f"uid:{BOB}")
        for _ in range(3):
            fill(sender, "Lazy")
            raises(errno.EAGAIN, "once more", sender.write, message("Lazy", SELF, bytes(8000)))
        check(refusals(f"uid:{ANN}") >= 6, f"{refusals(f'uid:{ANN}')} refusals")
        equal("lines in the log", told + 1, told_of(f"uid:{ANN}", f"uid:{BOB}"))


@case(timeout=120)
def limits_of_a_user():
    """ENOSPC beyond a user's endpoints and watches; another user still binds and watches."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, max(hard, 4096)))
    files = [open_as(ANN, "Watcher")]
    try:
        endpoints = limit(f"uid:{ANN}", "endpoints")
        with device_for_everybody():
            os.seteuid(ANN)
            files += [File(f"App{i}") for i in range(endpoints - 1)]
            one_more = File()
            os.seteuid(0)
        files.append(one_more)
        raises(errno.ENOSPC, "one more name", one_more.bind, "OneMore")
        with open_as(BOB, "Another"):
            pass
        files.pop(1).close()
        one_more.bind("OneMore")
        equal("bound", endpoints, used(f"uid:{ANN}", "endpoints"))
        for f in files[1:]:
            f.close()

        watcher, watches = files[0], limit(f"uid:{ANN}", "watches")
        watch = lambda f, i: f.write(message(f"Nobody{i}", SELF, WATCH, kind=PRESENCE))
        for i in range(watches):
            watch(watcher, i)
        raises(errno.ENOSPC, "one more watch", watch, watcher, watches)
        with open_as(BOB, "Another") as another:
            watch(another, 0)
        equal("watches", watches, used(f"uid:{ANN}", "watches"))
        watcher.write(message("Nobody1", SELF, mgmt.UNWATCH, kind=PRESENCE))
        watch(watcher, watches)
    finally:
        os.seteuid(0)
        for f in files:
            f.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@case(timeout=120)
def one_guest_fills_its_share():
    """A guest floods readers of Dom-M: it waits, another guest's message passes at once, and the log is short."""
    name, second = guests()[:2]
    vm_id = mgmt.domid(name)
    before = refusals("uid:0")
    told = told_of("uid:0", f"vm:{vm_id}")
    with File("Lazy"), File("Lively") as lively, GuestFile(second, "Other") as other:
        flood = subprocess.Popen(
            ["guest", "-T", "60", name, "mgmt-test --timeout 50 flood --to Lazy@mvm --app Flooder --count 3000 --size 4000 --wait 0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        check(mgmt.until(lambda: refusals("uid:0") > before, 60), "nothing was refused")
        other.write(message("Lively", MVM_COMPONENT, b"ping"))
        got = lively.read(10)
        equal("of the other guest", b"ping", got and got.payload)
        held, most = used("uid:0", "bytes"), limit("uid:0", "bytes")
        check(held <= most // 2, f"{held} of {most} bytes are held")
    flood.wait(90)
    equal("lines in the log", told + 1, told_of("uid:0", f"vm:{vm_id}"))
    check(mgmt.until(lambda: used("uid:0", "bytes") == 0), f"{used('uid:0', 'bytes')} bytes are still held")


def asks(file, to, component, correlation, **fields):
    file.write(message(to, component, b"question", flags=REQUEST, correlation=correlation, **fields))


def answers(file, request):
    name = request.source_app.rstrip(b"\0")
    file.write(message(name, request.source_component, b"answer", kind=REPLY, correlation=request.correlation))


def ended(text, file, correlation, sequence, reason, timeout=10):
    got = file.read(timeout)
    if check(got is not None, f"{text}: nothing came back"):
        found = (got.kind, got.reason, got.correlation, got.sequence, got.flags)
        equal(text, (UNDELIVERABLE, reason, correlation, sequence, REQUEST), found)


def nothing_more(text, *files, timeout=1.5):
    end = time.monotonic() + timeout
    for f in files:
        equal(f"{text}: what {f} got", None, f.read(max(0, end - time.monotonic())))


def pending(owner):
    return used(owner, "replies")


@case
def requests_in_this_domain():
    """A request holds a slot until its reply, its deadline, or its server's end; its end is told once."""
    with File("Asker") as asker:
        with File("Server") as server:
            asks(asker, "Server", SELF, 1)
            asks(asker, "Server", SELF, 2, deadline_ms=700)
            asks(asker, "Server", SELF, 3)
            asks(asker, "Server", SELF, 4, deadline_ms=60_000)
            equal("awaited", 4, pending("uid:0"))
            first, _, _, _ = (server.read(5) for _ in range(4))
            answers(server, first)
            equal("the reply", (REPLY, 1), (lambda m: (m.kind, m.correlation))(asker.read(5)))
            equal("awaited after a reply", 3, pending("uid:0"))
            answers(server, first)
            equal("a second reply is delivered", REPLY, asker.read(5).kind)
            ended("its deadline passed", asker, 2, 2, DEADLINE)
            equal("awaited after a deadline", 2, pending("uid:0"))
            asks(asker, "Server", SELF, 5)
        # The fifth was not read: it comes back before the others.
        for correlation in (5, 3, 4):
            ended("the server is gone", asker, correlation, correlation, PEER_GONE)
        nothing_more("afterwards", asker)
        equal("awaited", 0, pending("uid:0"))
        with File("Server"):
            asks(asker, "Server", SELF, 6)
            equal("awaited again", 1, pending("uid:0"))
            asker.close()
            equal("without who asked", 0, pending("uid:0"))


@case
def requests_that_await_nothing():
    """No slot for a broadcast, nor where nobody wants to hear of the end."""
    with File("Asker") as asker, File("Server") as server:
        asker.write(message("Server", SELF, flags=REQUEST | BROADCAST, correlation=1))
        asker.write(message("Server", SELF, flags=REQUEST | NO_UNDELIVERABLE, correlation=2))
        asker.write(message("Server", SELF, correlation=3))
        equal("awaited", 0, pending("uid:0"))
        for _ in range(3):
            server.read(5)
        server.close()
        nothing_more("read by a server that is gone", asker)


@case
def limit_of_requests():
    """ENOSPC beyond the requests that a user may have open; another user still asks."""
    with File("Server") as server, open_as(ANN, "Asker", nonblock=True) as asker, open_as(BOB, "Another") as another:
        most = limit(f"uid:{ANN}", "replies")
        for i in range(most):
            asks(asker, "Server", SELF, i)
            request = server.read(5)
        raises(errno.ENOSPC, "one more request", asks, asker, "Server", SELF, most)
        asker.write(message("Server", SELF, b"no request"))
        asks(another, "Server", SELF, 1)
        answers(server, request)
        equal("the reply", REPLY, asker.read(5).kind)
        asks(asker, "Server", SELF, most)
        equal("awaited", most, pending(f"uid:{ANN}"))


@case
def replies_to_those_who_share_a_name():
    """A reply goes to the file that asked, also where several have bound its App_ID."""
    shared = {"flags": mgmt.BIND_SHARED}
    with File("Asker", **shared) as first, File("Asker", **shared) as second, File("Server") as server:
        asks(second, "Server", SELF, 1)
        answers(server, server.read(5))
        got = second.read(5)
        equal("the second file", (REPLY, 1), got and (got.kind, got.correlation))
        asks(second, "Server", SELF, 2)
        server.close()
        ended("the second file", second, 2, 2, PEER_GONE)
        nothing_more("the first file", first)


@case(timeout=170)
def requests_to_a_guest():
    """Dom-M asks a guest: reply, deadline, a server that goes, a channel made anew, a link that goes; each once."""
    name = guests()[0]
    vm_id = mgmt.domid(name)
    there = mgmt.vm(vm_id)
    with File("Asker") as asker:
        with GuestFile(name, "Server") as server:
            for i in (1, 2, 3):
                asks(asker, "Server", there, i, deadline_ms=15_000 if i == 2 else 0)
            first = server.read()
            server.read(), server.read()
            equal("awaited", 3, pending("uid:0"))
            answers(server, first)
            equal("the reply", REPLY, asker.read(10).kind)
            ended("its deadline passed", asker, 2, 2, DEADLINE, 20)
            equal("awaited after that", 1, pending("uid:0"))
        ended("the server is gone", asker, 3, 3, PEER_GONE, 20)
        asks(asker, "Server", there, 4)
        ended("nobody is there", asker, 4, 4, mgmt.NO_ENDPOINT)
        equal("awaited", 0, pending("uid:0"))
        with GuestFile(name, "Server") as server:
            asks(asker, "Server", there, 5)
            question = server.read()
            equal("a question", 5, question.correlation)
            mgmt.rebind(name)
            check(connected(name), "the channel does not come back")
            answers(server, question)
            equal("the reply by another channel", (REPLY, 5), (lambda m: m and (m.kind, m.correlation))(asker.read(20)))
            asks(asker, "Server", there, 6)
            equal("a question", 6, server.read().correlation)
            mgmt.must("mgmtctl", "detach", name)
            ended("the link is gone", asker, 6, 6, PEER_GONE, 20)
            mgmt.must("mgmtctl", "attach", name)
        nothing_more("afterwards", asker)
    check(connected(name), "the channel does not come back")
    # Its own end is the later one.
    there_too = lambda: "connected" in mgmt.in_guest(name, "mgmtctl status | grep ^uplink")[1]
    check(mgmt.until(there_too, 30), "the guest's channel does not come back")


@case(timeout=150)
def requests_of_a_guest():
    """A guest asks Dom-M, and another guest: reply, deadline, a server that goes; each once."""
    name, second = guests()[:2]
    a, b = mgmt.domid(name), mgmt.domid(second)
    with File() as f:
        equal("a mistake", (0, 0), f.load_policy(f"allow vm:{a} -> vm:{b}\n"))
    with GuestFile(name, "Asker") as asker:
        with File("Server") as server:
            asks(asker, "Server", MVM_COMPONENT, 1)
            asks(asker, "Server", MVM_COMPONENT, 2, deadline_ms=8000)
            asks(asker, "Server", MVM_COMPONENT, 3)
            first = server.read(10)
            server.read(5), server.read(5)
            equal("awaited", 3, pending(f"vm:{a}"))
            answers(server, first)
            equal("the reply", REPLY, asker.read(10).kind)
            ended("its deadline passed", asker, 2, 2, DEADLINE, 20)
            check(mgmt.until(lambda: pending(f"vm:{a}") == 1), "the deadline is forgotten")
        ended("the server is gone", asker, 3, 3, PEER_GONE)
        equal("awaited", 0, pending(f"vm:{a}"))
        with GuestFile(second, "Server") as server:
            asks(asker, "Server", mgmt.vm(b), 4)
            asks(asker, "Server", mgmt.vm(b), 5)
            first = server.read()
            equal("questions", (4, 5), (first.correlation, server.read().correlation))
            answers(server, first)
            equal("the reply of the other guest", REPLY, asker.read(10).kind)
        ended("the other guest's server is gone", asker, 5, 5, PEER_GONE, 20)
        nothing_more("afterwards", asker, timeout=2)
        equal("awaited", 0, pending(f"vm:{a}"))
    with File() as f:
        f.load_policy("")


@case
def shown():
    """debugfs and mgmtctl show what the ioctl says; only root may look."""
    vm_id = mgmt.domid(guests()[0])
    with open_as(ANN, "Shown") as f, File("Sender") as sender:
        sender.write(message("Shown", SELF, bytes(100)))
        lines = mgmt.debugfs("accounts")
        for owner in (f"uid:{ANN}", "uid:0", f"vm:{vm_id}"):
            if not check(owner in lines, f"no line of {owner}: {lines}"):
                continue
            now, most, refused = sender.account(owner)
            for slot, count in now.items():
                check(f" {slot}={count}/{most[slot]} " in lines[owner], f"{slot} in {lines[owner]}")
            check(lines[owner].endswith(f" refusals={refused}"), lines[owner])
        table = mgmt.must("mgmtctl", "accounts").splitlines()
        check(any(line.split()[:3] == [f"uid:{ANN}", "292/33554432", "1/16384"] for line in table), f"{table}")
        raises(errno.EPERM, "a user asks", as_user, ANN, lambda: f.account("uid:0"))
        equal("endpoints", "Shown account=uid:60001 queued_messages=1 queued_bytes=292", mgmt.debugfs("endpoints").get("Shown"))
        links = mgmt.debugfs("links")
        rx = sender.link(vm_id)["rx_messages"]
        check(f" rx_messages={rx} " in links.get(f"vm:{vm_id}", ""), f"{links}")
        equal("a mistake", (0, 0), sender.load_policy("# one\nallow vm:7 -> vm:8\n"))
        equal("a rule", "line=2 hits=0 allow vm:7 -> vm:8", mgmt.debugfs("rules").get("line=2"))
        sender.load_policy("")


@case
def traced():
    """Tracepoints tell that a message was accepted, routed, read, or dropped, and why."""
    tracing = "/sys/kernel/tracing"
    if not os.path.isdir(f"{tracing}/events"):
        mgmt.must("mount", "-t", "tracefs", "none", tracing)

    def switch(on):
        with open(f"{tracing}/events/mgmt/enable", "w") as f:
            f.write("1" if on else "0")

    with File("Source") as source, File("Sink") as sink:
        switch(True)
        try:
            source.write(message("Sink", SELF, b"read", correlation=17, priority=70))
            sink.read(5)
            source.write(message("Sink", SELF, b"unread", correlation=18))
            sink.close()
            source.read(5)
        finally:
            switch(False)
        source.write(message("Source", SELF, b"off", correlation=19))
    with open(f"{tracing}/trace") as f:
        lines = [line.strip() for line in f if "source=Source@" in line]

    def points(correlation):
        # Task, CPU, flags and time; the name; the fields.
        found = [line.split(": ", 2) for line in lines if f" correlation={correlation} " in line]
        return [(name, fields) for _, name, fields in found]

    read, unread = points(17), points(18)
    equal("of the first", ["mgmt_deliver", "mgmt_route", "mgmt_send"], sorted(name for name, _ in read))
    equal("of the second", ["mgmt_drop", "mgmt_route", "mgmt_send"], sorted(name for name, _ in unread))
    for _, text in read:
        for part in ("destination=Sink@vm:", "account=uid:0", "kind=data", "priority=70", "length=4", "reason=0"):
            check(part in text, f"{part} is not in {text}")
    dropped = "".join(text for name, text in unread if name == "mgmt_drop")
    check("length=6 sequence=2 " in dropped and "reason=5" in dropped, f"{dropped!r}")
    equal("while off", [], points(19))


def as_user(uid, call):
    os.seteuid(uid)
    try:
        return call()
    finally:
        os.seteuid(0)


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
