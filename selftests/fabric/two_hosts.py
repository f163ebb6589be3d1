#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Two hosts of the fabric: order and no loss, partition, daemons that are killed, intruders, a guest
that migrates from one to the other. `scripts/lab two-hosts` runs it on both; h1 leads.
"""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../mgmt"))

import mgmt
import traffic
from mgmt import EVERYWHERE, File, PATIENCE, case, check, equal, message, must, note, until, vm

H1, H2 = "10.78.0.1", "10.78.0.2"
PORT = 7000
WORK = "/tmp/fabric"


def component(address, vm_id=0):
    return vm(vm_id, bytes(10) + b"\xff\xff" + socket.inet_aton(address))


# -- h2 does what h1 says --


def serve():
    """Runs what h1 asks for, each in a thread of its own."""
    listener = socket.create_server(("0.0.0.0", PORT))
    while True:
        threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()


def answer(connection):
    with connection, connection.makefile("rwb") as stream:
        line = stream.readline()
        if not line:
            return
        asked = json.loads(line)
        if "pipe" in asked:
            # The rest of the connection is the command's own.
            subprocess.run(asked["pipe"], stdin=connection, stdout=connection, stderr=open("/tmp/pipe.err", "w"))
            return
        done = subprocess.run(
            ["bash", "-c", asked["run"]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        stream.write(json.dumps([done.returncode, done.stdout.decode(errors="replace")]).encode() + b"\n")


def ask(question, timeout=30):
    connection = socket.create_connection((H2, PORT), timeout * PATIENCE)
    connection.sendall(json.dumps(question).encode() + b"\n")
    return connection


def there(command, timeout=60):
    """Status and output of a command on h2."""
    with ask({"run": command}, timeout) as connection, connection.makefile("rb") as stream:
        return json.loads(stream.readline())


def must_there(command, timeout=60):
    status, output = there(command, timeout)
    if status:
        raise mgmt.Failure(f"h2: {command}: status {status}: {output.strip()}")
    return output.strip()


def here(command, timeout=60):
    return must("bash", "-c", command, timeout=timeout)


# -- daemons --

RUN = (
    "setsid mgmt-fabric run --certificates {directory} --state {work}/state --mvm-ip {ip} --peer {peer} "
    ">>{work}/log 2>&1 </dev/null & echo $! >{work}/pid"
)


def daemon(ip, directory=None):
    """How the daemon of a host is started."""
    peer = H2 if ip == H1 else H1
    return RUN.format(directory=directory or f"{WORK}/{ip}", work=WORK, ip=ip, peer=peer)


KILL = f"kill -9 $(cat {WORK}/pid) 2>/dev/null; true"


def log():
    with open(f"{WORK}/log", errors="replace") as f:
        return f.read()


def logged(text, since=0, timeout=30):
    return until(lambda: text in log()[since:], timeout)


def show_logs(lines=25):
    """The ends of the daemons' logs, if h2 can be asked."""
    found = {"h1": log()}
    try:
        found["h2"] = there(f"cat {WORK}/log", 20)[1]
    except (OSError, ValueError) as e:
        found["h2"] = f"no answer: {e}"
    for host, text in found.items():
        for line in text.splitlines()[-lines:]:
            note(f"{host}: {line}")


def reached(timeout=30):
    """A message from h1 reaches h2, and comes back from where nobody is."""
    with File("Probe") as f:

        def probe():
            try:
                f.write(message("Nobody", component(H2)))
            except OSError:
                return False
            got = f.read(2)
            return got is not None and got.reason == mgmt.NO_ENDPOINT

        return until(probe, timeout)


class Traffic:
    """Numbered messages both ways between the management VMs, until the end: all must arrive, once, in order."""

    def __enter__(self):
        command = "rm -f /tmp/stop; exec mgmt-test --timeout {t} duplex --wait {w} --app Traffic --until /tmp/stop --to Traffic@vm:{ip}/0"
        words = {"t": 900 * PATIENCE, "w": 60 * PATIENCE}
        self.there = []
        self.thread = threading.Thread(
            target=lambda: self.there.extend(there(command.format(ip=H1, **words), 900)), daemon=True
        )
        self.thread.start()
        self.here = subprocess.Popen(
            ["bash", "-c", command.format(ip=H2, **words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        time.sleep(3 * PATIENCE)
        return self

    def __exit__(self, kind, *_):
        here("touch /tmp/stop")
        there("touch /tmp/stop")
        if kind:
            self.here.kill()
            return
        output = self.here.communicate(timeout=200 * PATIENCE)[0].decode()
        self.thread.join(200 * PATIENCE)
        reports = [report("h1", output), report("h2", self.there[1] if self.there else "no end")]
        if all(reports):
            sent, got = ([r[key] for r in reports] for key in ("sent", "received"))
            equal("what was sent, and what the other side received", sent, got[::-1])
            pauses = " and ".join(f"{r['longest_gap_ms']} ms" for r in reports)
            note(f"{sum(got)} messages; the longest pauses, at h1 and at h2: {pauses}")
            check(min(got) > 100, "too few messages for a test")


def report(side, output):
    try:
        found = json.loads(output.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        mgmt.fail(f"{side}: no report: {output}")
        return None
    check(found.get("ok"), f"{side}: {found}")
    return found


def set_up():
    """Certificates and daemons on both hosts, for whichever case is the first."""
    if os.path.exists(f"{WORK}/log"):
        return
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    here(f"cd {WORK} && mgmt-fabric ca init --dir ca && mkdir other && mgmt-fabric ca init --dir other")
    for ip in (H1, H2):
        here(f"cd {WORK} && mgmt-fabric cert issue {ip} --ca ca --out {ip}")
    here(f"cd {WORK} && mgmt-fabric cert issue {H2} --ca other --out intruder")
    check(oct(os.stat(f"{WORK}/{H1}/host.key").st_mode)[-3:] == "600", "others may read the key")
    bundle = here(f"tar -C {WORK} -cz {H2} intruder | base64 -w0")
    must_there(f"mkdir -p {WORK} && echo {bundle} | base64 -d | tar -C {WORK} -xz")
    here(daemon(H1))
    must_there(daemon(H2))
    if not logged(f"connected peer={H2}"):
        raise mgmt.Failure(f"no connection: {log()}")


# -- cases, on h1 --


def fabric_case(timeout):
    """A case that needs daemons on both hosts."""

    def mark(function):
        @functools.wraps(function)
        def prepared():
            set_up()
            done = False
            try:
                function()
                done = not mgmt.has_failed()
            finally:
                if not done:
                    show_logs()

        return case(prepared, timeout=timeout)

    return mark


@fabric_case(timeout=120)
def hosts_find_each_other():
    """With certificates of one authority two hosts exchange messages."""
    check(reached(), f"no message passes: {log()}")


@fabric_case(timeout=300)
def numbered_traffic():
    """Numbered messages both ways at full rate: none lost, doubled or out of order."""
    with Traffic():
        time.sleep(5 * PATIENCE)


@fabric_case(timeout=300)
def partition():
    """The network fails for 12 s under traffic: the hosts notice, and go on where they were."""
    with Traffic():
        # What h1 asks of h2 goes by the same network.
        since = len(log())
        here("ip link set eth0 down")
        check(logged("disconnected", since, 30), "h1 does not notice")
        here("ip link set eth0 up")
        check(logged("connected peer", since, 60), "not connected again")
        time.sleep(3 * PATIENCE)


@fabric_case(timeout=400)
def daemons_killed():
    """The daemons are killed (SIGKILL) five times each under traffic: nothing is lost or doubled."""
    with Traffic():
        for _ in range(5):
            here(KILL)
            here(daemon(H1))
            time.sleep(1.3 * PATIENCE)
            must_there(KILL)
            must_there(daemon(H2))
            time.sleep(1.7 * PATIENCE)


# Serves an App_ID until it is killed.
SERVER = """
import sys, time
sys.path.insert(0, "/lab/selftests/mgmt")
import mgmt
f = mgmt.File("Server")
time.sleep(3000)
"""


def hears(watcher, when, event):
    got = watcher.read(30 * PATIENCE)
    return equal(f"presence on h2 {when}", (event, component(H2)), got and (got.payload, got.source_component))


@fabric_case(timeout=300)
def partition_that_lasts():
    """The network fails for longer than messages wait: each comes back, who watches h2 is told, and it heals."""
    count = 300
    with File("Cut") as f, File("Watcher") as watcher:
        watcher.write(message("Server", component(H2), mgmt.WATCH, kind=mgmt.PRESENCE))
        hears(watcher, "at first", mgmt.DOWN)
        must_there(f"setsid python3 -c '{SERVER}' >/tmp/server.log 2>&1 </dev/null & echo $! >/tmp/server")
        if not hears(watcher, "when the server begins", mgmt.UP):
            note(must_there("kill -0 $(cat /tmp/server); cat /tmp/server.log; mgmtctl status"))
        since = len(log())
        here("ip link set eth0 down")
        for number in range(count):
            f.write(message("Nobody", component(H2), number.to_bytes(4, "little")))
        check(logged("disconnected", since, 30), "h1 does not notice")
        back = [f.read(60 * PATIENCE) for _ in range(count)]
        reasons = {got and (got.kind, got.reason) for got in back}
        equal("what came back", {(mgmt.UNDELIVERABLE, mgmt.PEER_GONE)}, reasons)
        order = [got.sequence for got in back if got]
        check(order == sorted(set(order)), "it came back doubled or out of order")
        # What is sent from now on does not wait.
        f.write(message("Nobody", component(H2)))
        got = f.read(5)
        equal("to a host that is away", mgmt.NO_COMPONENT, got and got.reason)
        hears(watcher, "when h2 is away", mgmt.DOWN)
        here("ip link set eth0 up")
        check(reached(90), "h2 does not come back")
        hears(watcher, "when h2 is back", mgmt.UP)
        must_there("kill $(cat /tmp/server)")
        hears(watcher, "when the server ends", mgmt.DOWN)


DISK = mgmt.hardware(b"Disk-2")

# Serves hardware, until it is killed.
DISK_SERVER = """
import sys
sys.path.insert(0, "/lab/selftests/mgmt")
import mgmt
f = mgmt.File()
f.bind_hardware(mgmt.hardware(b"Disk-2"), "Smart")
while got := f.read(3000):
    if got.kind == mgmt.DATA:
        answer = {"kind": mgmt.REPLY, "correlation": got.correlation}
        f.write(mgmt.message(got.source_app, got.source_component, got.payload + b"!", **answer))
"""


def asked(text, file, reason=None):
    """A request to the disk is answered, or comes back for this reason."""
    file.write(message("Smart", DISK, b"?", flags=mgmt.REQUEST, correlation=9, deadline_ms=20_000 * PATIENCE))
    got = file.read(30 * PATIENCE)
    expected = (mgmt.UNDELIVERABLE, reason, b"") if reason else (mgmt.REPLY, 0, b"?!")
    equal(f"{text}: kind, reason and payload", expected, got and (got.kind, got.reason, got.payload))
    equal(f"{text}: from", DISK, got and got.source_component)


@fabric_case(timeout=400)
def hardware_of_the_other_host():
    """Hardware that h2 serves is asked and watched from h1, by whom both hosts' rules allow; its end is told."""
    check(reached(), "h2 is not there")
    name = mgmt.guests()[0]
    load = lambda rules: must_there(f"printf '{rules}' | mgmtctl policy load -")
    with File("Asker") as f, File("Watcher") as watcher, mgmt.GuestFile(name, "Asker") as guest:
        told = lambda: (lambda m: m and (m.payload, m.source_component))(watcher.read(30 * PATIENCE))
        asked("before", f, mgmt.NO_COMPONENT)
        watcher.write(message("Smart", DISK, mgmt.WATCH, kind=mgmt.PRESENCE))
        equal("before", (mgmt.DOWN, DISK), told())
        must_there(f"setsid python3 -c '{DISK_SERVER}' >/tmp/disk.log 2>&1 </dev/null & echo $! >/tmp/disk")
        equal("served", (mgmt.UP, DISK), told())
        asked("Dom-M", f)
        asked("a guest", guest)
        try:
            load("")
            asked("Dom-M, without a rule there", f, mgmt.DENIED)
            load("allow vm:10.78.0.1/0 -> Smart@hw:*\\n")
            asked("Dom-M, with one", f)
            asked("a guest, without one", guest, mgmt.DENIED)
        finally:
            load("allow * -> *\\n")
        since = len(log())
        here(KILL)
        here(daemon(H1))
        check(logged("connected peer", since, 60), "not connected again")
        answered = lambda: f.write(message("Smart", DISK, b"again")) or (lambda m: m and m.payload == b"again!")(f.read(5))
        check(until(answered, 30), "after the daemon was killed: no answer")
        must_there("kill $(cat /tmp/disk)")
        equal("its end", (mgmt.DOWN, DISK), told())
        time.sleep(PATIENCE)
        asked("after that", f, mgmt.NO_COMPONENT)


# Serves an App_ID, and says what it was told, until it is killed.
BROKER = """
import sys
sys.path.insert(0, "/lab/selftests/mgmt")
import mgmt
f = mgmt.File("Broker")
while got := f.read(3000):
    print(got.payload.decode(), flush=True)
"""


@fabric_case(timeout=400)
def one_question_for_all():
    """One question is answered by brokers on both hosts; a guest is let out by a rule about everything only."""
    check(reached(), "h2 is not there")
    name = mgmt.guests()[0]
    ours = [component(H1), component(H1, mgmt.domid(name))]
    must_there(f"setsid python3 -c '{BROKER}' >/tmp/broker.log 2>&1 </dev/null & echo $! >/tmp/broker")
    heard = lambda: there("cat /tmp/broker.log")[1].split()

    def found(file, expected):
        """Who answers, until nothing more comes; asked again where somebody is missing who may still begin."""

        def ask_all():
            file.write(message("Broker", EVERYWHERE, kind=mgmt.DISCOVER, flags=mgmt.BROADCAST | mgmt.REQUEST))
            answers = []
            while got := file.read(6 if len(answers) < len(expected) else 2):
                answers.append(got.source_component)
            return sorted(answers)

        for _ in range(3):
            answers = ask_all()
            if answers == sorted(expected):
                break
        return answers

    with File("Asker") as f, mgmt.GuestFile(name, "Asker") as guest:
        with File("Broker") as broker, mgmt.GuestFile(name, "Broker"):
            everybody = sorted([*ours, component(H2)])
            equal("Dom-M asks", everybody, found(f, everybody))
            equal("a guest asks", everybody, found(guest, everybody))
            listed = here("mgmtctl discover Broker --in everywhere --wait 5000").split()
            equal("mgmtctl", {f"Broker@vm:{H1}/0", f"Broker@vm:{H1}/{mgmt.domid(name)}", f"Broker@vm:{H2}/0"}, set(listed))
            try:
                for rules in ("", f"allow vm:* -> vm:{H2}/*"):
                    f.load_policy(rules)
                    # What is on its own host it may reach by the built-in rules: Dom-M, and itself.
                    equal(f"a guest asks, by {rules or 'no rule'}", sorted(ours), found(guest, ours))
                    equal(f"Dom-M asks, by {rules or 'no rule'}", everybody, found(f, everybody))
                f.load_policy("allow vm:* -> *")
                equal("a guest asks, by a rule", everybody, found(guest, everybody))
            finally:
                f.load_policy(mgmt.OPEN_POLICY)
            # Told once, also where the daemon that tells it is killed meanwhile.
            numbers = [str(number) for number in range(200)]
            for number in numbers:
                f.write(message("Broker", EVERYWHERE, number.encode(), flags=mgmt.BROADCAST))
                if number in ("50", "120"):
                    here(KILL)
                    here(daemon(H1))
            equal("told here", numbers, [got and got.payload.decode() for got in (broker.read(10) for _ in numbers)])
            check(until(lambda: len(heard()) >= len(numbers), 60), f"h2 was told {len(heard())} times")
            time.sleep(PATIENCE)
            equal("told on h2", numbers, heard())
            check(f.read(1) is None, "something came back")
        must_there("kill $(cat /tmp/broker)")


@fabric_case(timeout=300)
def one_watch_for_all():
    """One watch hears who comes and goes on both hosts, also after the daemon was killed."""
    check(reached(), "h2 is not there")
    name = mgmt.guests()[0]
    begins = f"setsid python3 -c '{BROKER}' >/tmp/broker.log 2>&1 </dev/null & echo $! >/tmp/broker"
    with File("Watcher") as f:
        told = lambda: (lambda m: m and (m.payload, m.source_component))(f.read(30))
        f.write(message("Broker", EVERYWHERE, mgmt.WATCH, kind=mgmt.PRESENCE))
        check(f.read(2) is None, "somebody is there already")
        for _ in range(2):
            must_there(begins)
            equal("on h2", (mgmt.UP, component(H2)), told())
            with mgmt.GuestFile(name, "Broker"):
                equal("in a guest here", (mgmt.UP, component(H1, mgmt.domid(name))), told())
            equal("its end", (mgmt.DOWN, component(H1, mgmt.domid(name))), told())
            must_there("kill $(cat /tmp/broker)")
            equal("its end on h2", (mgmt.DOWN, component(H2)), told())
            here(KILL)
            here(daemon(H1))
            check(reached(), "h2 is not there")
        check(f.read(2) is None, "it is told more")


@fabric_case(timeout=300)
def slow_peer():
    """A receiver that is slow, and for 8 s does not read at all, gets all, in order; its sender waits."""
    count = 6000
    sink = f"exec mgmt-test --timeout {250 * PATIENCE} sink Slow --count {count} --linger 2000 --slow 1000"
    found = []
    receiver = threading.Thread(target=lambda: found.extend(there(sink, 280)), daemon=True)
    receiver.start()
    flood = f"mgmt-test --timeout {250 * PATIENCE} flood --wait 30 --count {count} --size 1024 --to Slow@vm:{H2}/0"
    with subprocess.Popen(flood.split(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as sender:
        time.sleep(3 * PATIENCE)
        # mgmt-test is the only one there.
        must_there("kill -STOP $(pidof mgmt-test)")
        time.sleep(8)
        check(sender.poll() is None, "its sender did not wait")
        must_there("kill -CONT $(pidof mgmt-test)")
        output = sender.communicate(timeout=200 * PATIENCE)[0].decode()
    receiver.join(200 * PATIENCE)
    report("h1", output)
    got = report("h2", found[1] if found else "no end")
    if got:
        equal("received", count, got["received"])
        note(f"the longest pause at the receiver: {got['longest_gap_ms']} ms")


# Speaks TLS, and has no certificate.
STRANGER = f"""
import socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with context.wrap_socket(socket.create_connection(("{H1}", 7440), 10)) as s:
    try:
        s.sendall(b"hello")
        assert not s.recv(1), "it was answered"
    except OSError:
        pass
"""


@fabric_case(timeout=300)
def intruder_without_certificate():
    """A host whose certificate is of another authority is refused and logged; nothing enters."""
    since = len(log())
    must_there(KILL)
    must_there(daemon(H2, f"{WORK}/intruder"))
    check(logged("disconnected", since), "h1 does not notice that h2 has gone")
    with File("Here") as f:
        must_there("mgmtctl send 'Here@vm:10.78.0.1/0' intruder || true")
        check(until(lambda: "refused" in log()[since:] or "not reached" in log()[since:], 30), f"not logged: {log()[since:]}")
        check(f.read(5) is None, "something entered")
    refused = [line for line in (log()[since:] + there(f"cat {WORK}/log")[1]).splitlines() if "refused" in line]
    note("; ".join(refused[:2]))
    check(refused, "nobody logged a refusal")
    # Who has none at all, and who speaks something else.
    since = len(log())
    must_there(f"python3 -c '{STRANGER}'")
    check(logged(f"refused: from {H2}", since), f"a stranger without a certificate is not logged: {log()[since:]}")
    with socket.create_connection(("127.0.0.1", 7440)) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        check(logged("refused: from 127.0.0.1", since), f"a stranger is not logged: {log()[since:]}")
    note("; ".join(line for line in log()[since:].splitlines() if "refused" in line))
    must_there(KILL)
    must_there(daemon(H2))
    check(reached(90), "h2 does not come back")


@fabric_case(timeout=300)
def wrong_component():
    """A host that sends as a component of another host is refused and logged; its sender is told."""
    since = len(log())
    with File("Here") as f:
        # h2's bridge gives itself another name than its certificate has.
        script = (
            "import sys; sys.path.insert(0, '/lab/selftests/mgmt'); import mgmt, socket\n"
            "ip = lambda a: bytes(10) + b'\\xff\\xff' + socket.inet_aton(a)\n"
            "f = mgmt.File('Liar'); f.set_mvm_ip(ip('10.78.0.3'))\n"
            "f.write(mgmt.message('Here', mgmt.vm(0, ip('10.78.0.1')), b'forged'))\n"
            "got = f.read(20); f.set_mvm_ip(ip('10.78.0.2'))\n"
            "print(got and (got.kind, got.reason))"
        )
        told = must_there(f"python3 -c \"{script}\"")
        equal("the sender", str((mgmt.UNDELIVERABLE, mgmt.DENIED)), told)
        check(f.read(2) is None, "it was delivered")
    check(logged("refused a message", since), f"not logged: {log()[since:]}")
    note(next((line for line in log()[since:].splitlines() if "refused a message" in line), ""))
    check(reached(), "what is true does not pass any more")


def install_revoked():
    """Both hosts get the authority's list, and read it."""
    here(f"cp {WORK}/ca/revoked.pem {WORK}/{H1}/ && kill -HUP $(cat {WORK}/pid)")
    text = here(f"base64 -w0 {WORK}/ca/revoked.pem")
    must_there(f"echo {text} | base64 -d >{WORK}/{H2}/revoked.pem; kill -HUP $(cat {WORK}/pid)")


@fabric_case(timeout=300)
def revoked_certificate():
    """A host whose certificate is revoked is refused and logged at once; with another one it is back."""
    since = len(log())
    here(f"cd {WORK} && mgmt-fabric cert revoke {H2} --ca ca")
    install_revoked()
    check(logged("its certificate is revoked", since), f"h2 is not sent away: {log()[since:]}")
    check(logged("refused: to", since), f"h2 is not refused: {log()[since:]}")
    note("; ".join(line for line in log()[since:].splitlines() if "refused" in line))
    check(not reached(3), "h2 is still there")
    here(f"cd {WORK} && rm -rf {H2} && mgmt-fabric cert issue {H2} --ca ca")
    bundle = here(f"tar -C {WORK} -cz {H2} | base64 -w0")
    must_there(f"echo {bundle} | base64 -d | tar -C {WORK} -xz && kill -HUP $(cat {WORK}/pid)")
    check(reached(90), f"h2 does not come back: {log()[since:]}")


MIGRATE = f"""#!/usr/bin/env python3
import json, os, socket, sys, threading
s = socket.create_connection(("{H2}", {PORT}))
s.sendall(json.dumps({{"pipe": ["xl", "migrate-receive"]}}).encode() + b"\\n")
def up():
    while data := os.read(0, 1 << 18):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(1 << 18):
    os.write(1, data)
"""

# Numbered messages both ways at a steady rate, until a file is there.
EXCHANGE = (
    "rm -f /tmp/over; exec mgmt-test --timeout {t} duplex --app {app} --wait {w} --linger 3000 --pause 20 "
    "--until /tmp/over --to {app}@{to}"
)


def counter(domain, name):
    """Of h2's link to a guest."""
    return int(must_there(f"python3 /lab/selftests/mgmt/mgmt.py counter {domain} {name}"))


@fabric_case(timeout=1200)
def live_migration():
    """A PVH guest migrates live from h1 to h2; its numbered messages with brokers on both go on."""
    name = mgmt.guests()[0]
    uuid = traffic.uuid(name)
    with open("/tmp/mig", "w") as f:
        f.write(MIGRATE)
    os.chmod("/tmp/mig", 0o755)
    words = {"t": 1000 * PATIENCE, "w": 60 * PATIENCE}
    remote = []
    broker = EXCHANGE.format(app="Remote", to=f"uuid:{uuid}", **words)
    waiter = threading.Thread(target=lambda: remote.extend(there(broker, 1100)), daemon=True)
    waiter.start()
    broker = EXCHANGE.format(app="Local", to=f"uuid:{uuid}", **words)
    local = subprocess.Popen(
        ["bash", "-c", broker], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for app, ip in (("Local", H1), ("Remote", H2)):
        command = EXCHANGE.format(app=app, to=f"vm:{ip}/0", **words)
        must("guest", "-T", "60", name, f"({command}) >/tmp/{app}.out 2>&1 </dev/null &", timeout=90)
    with File() as f:
        counts = lambda: [f.link(mgmt.domid(name))[way] for way in ("rx_messages", "tx_messages")]
        if not until(lambda: min(counts()) > 200, 120):
            raise mgmt.Failure(f"the traffic does not begin: {counts()}")
    here("setsid mgmtd --state /tmp/mgmtd >/tmp/mgmtd.log 2>&1 </dev/null &")
    must_there("setsid mgmtd --state /tmp/mgmtd >/tmp/mgmtd.log 2>&1 </dev/null &")
    began = time.monotonic()
    must("xl", "migrate", "-s", "/tmp/mig", name, "h2", timeout=600)
    note(f"xl migrate took {time.monotonic() - began:.0f} s")
    must_there(f"guest-attach {name}", timeout=240)
    domain = must_there(f"xl domid {name}")
    moving = lambda: min(counter(domain, way) for way in ("rx_messages", "tx_messages"))
    if not until(lambda: counter(domain, "state") == 2, 60):
        mgmt.fail(f"not connected on h2: {there('cat /tmp/mgmtd.log')[1]}")
    else:
        if not until(lambda: moving() > 300, 90):
            local.kill()
            raise mgmt.Failure(f"the traffic does not go on: {moving()}")
    note(f"h2: {there(f'grep a.guest.is.here {WORK}/log | tail -n 1')[1].strip()}")
    must_there(f"guest -T 60 {name} 'touch /tmp/over'; touch /tmp/over", timeout=90)
    here("touch /tmp/over")
    outputs = {"h1": local.communicate(timeout=200 * PATIENCE)[0].decode()}
    waiter.join(200 * PATIENCE)
    outputs["h2"] = remote[1] if remote else "no end"
    for side, app in (("h1", "Local"), ("h2", "Remote")):
        ended = lambda: there(f"guest -T 60 {name} 'grep ok /tmp/{app}.out'", 90)[0] == 0
        check(until(ended, 120), f"{name}, {app}: no end")
        there_, here_ = report(name, there(f"guest -T 60 {name} 'cat /tmp/{app}.out'", 90)[1]), report(side, outputs[side])
        if there_ and here_:
            sent, got = ([r[key] for r in (there_, here_)] for key in ("sent", "received"))
            equal(f"what was sent, and received, between {name} and {side}", sent, got[::-1])
            pauses = f"{there_['longest_gap_ms']} ms in {name}, {here_['longest_gap_ms']} ms at {side}"
            note(f"{name} and {side}: {sum(got)} messages; the longest pauses: {pauses}")


def ready():
    here("insmod /lab/mgmt.ko")
    with File() as f:
        f.load_policy(mgmt.OPEN_POLICY)


def main():
    if os.environ["LAB_HOST"] == "h2":
        ready()
        serve()
    ready()
    for name in mgmt.guests():
        must("guest", "-T", "60", name, "insmod /lab/mgmt.ko", timeout=90)
        must("mgmtctl", "attach", name)
    if not until(lambda: socket.socket().connect_ex((H2, PORT)) == 0, 200):
        print("TAP version 13\n1..0 # SKIP h2 does not answer")
        sys.exit(1)
    mgmt.main(need_guests=0)


if __name__ == "__main__":
    main()
