#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Two hosts of the fabric: order and no loss, partition, daemons that are killed, intruders, a guest
that migrates from one to the other. `scripts/lab two-hosts` runs it on both; h1 leads.
"""

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
from mgmt import File, PATIENCE, case, check, equal, message, must, note, until, vm

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
        asked = json.loads(stream.readline())
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


# -- cases, on h1 --


@case(timeout=120)
def hosts_find_each_other():
    """With certificates of one authority two hosts exchange messages."""
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
    check(logged(f"connected peer={H2}"), f"no connection: {log()}")
    check(reached(), "no message passes")


@case(timeout=300)
def numbered_traffic():
    """Numbered messages both ways at full rate: none lost, doubled or out of order."""
    with Traffic():
        time.sleep(5 * PATIENCE)


@case(timeout=300)
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


@case(timeout=400)
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


@case(timeout=300)
def intruder_without_certificate():
    """A host whose certificate is of another authority is refused and logged; nothing enters."""
    must_there(KILL)
    since = len(log())
    must_there(daemon(H2, f"{WORK}/intruder"))
    check(logged("disconnected", since), "h1 does not notice that h2 has gone")
    with File("Here") as f:
        must_there("mgmtctl send 'Here@vm:10.78.0.1/0' intruder || true")
        check(until(lambda: "refused" in log()[since:] or "not reached" in log()[since:], 30), f"not logged: {log()[since:]}")
        check(f.read(5) is None, "something entered")
    refused = [line for line in (log()[since:] + there(f"cat {WORK}/log")[1]).splitlines() if "refused" in line]
    note("; ".join(refused[:2]))
    check(refused, "nobody logged a refusal")
    with socket.create_connection(("127.0.0.1", 7440)) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        check(logged("refused: from 127.0.0.1", since), "a stranger is not logged")
    must_there(KILL)
    must_there(daemon(H2))
    check(reached(90), "h2 does not come back")


@case(timeout=300)
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
            "f.set_mvm_ip(ip('10.78.0.2')); got = f.read(20)\n"
            "print(got and (got.kind, got.reason))"
        )
        told = must_there(f"python3 -c \"{script}\"")
        equal("the sender", str((mgmt.UNDELIVERABLE, mgmt.DENIED)), told)
        check(f.read(2) is None, "it was delivered")
    check(logged("refused a message", since), f"not logged: {log()[since:]}")
    note(next((line for line in log()[since:].splitlines() if "refused a message" in line), ""))
    check(reached(), "what is true does not pass any more")


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

# In the guest: numbered messages to a broker on each host, as fast as these take them.
SEND = (
    "mgmt-test --timeout {t} flood --app To{name} --wait {w} --count {count} --to {name}@vm:{ip}/0 "
    ">/tmp/{name}.out 2>&1 </dev/null; echo $? >/tmp/{name}.status"
)


@case(timeout=1500)
def live_migration():
    """A PVH guest migrates live from h1 to h2 under numbered messages to brokers on both."""
    name = mgmt.guests()[0]
    count = 20_000
    with open("/tmp/mig", "w") as f:
        f.write(MIGRATE)
    os.chmod("/tmp/mig", 0o755)
    sinks = {}
    sink = "exec mgmt-test --timeout {t} sink {name} --count {count} --linger 3000 --slow 3000"
    words = {"t": 1400 * PATIENCE, "w": 60 * PATIENCE, "count": count}
    local = subprocess.Popen(["bash", "-c", sink.format(name="Local", **words)], stdout=subprocess.PIPE)
    remote = threading.Thread(
        target=lambda: sinks.update(remote=there(sink.format(name="Remote", **words), 1400)), daemon=True
    )
    remote.start()
    for app, ip in (("Local", H1), ("Remote", H2)):
        must("guest", "-T", "60", name, f"({SEND.format(name=app, ip=ip, **words)}) &", timeout=90)
    time.sleep(5 * PATIENCE)
    here("setsid mgmtd >/tmp/mgmtd.log 2>&1 </dev/null &")
    must_there("setsid mgmtd >/tmp/mgmtd.log 2>&1 </dev/null &")
    began = time.monotonic()
    must("xl", "migrate", "-s", "/tmp/mig", name, "h2", timeout=1200)
    note(f"xl migrate took {time.monotonic() - began:.0f} s")
    output = local.communicate(timeout=600 * PATIENCE)[0].decode()
    remote.join(600 * PATIENCE)
    for side, text in (("Local", output), ("Remote", sinks.get("remote", (1, "no end"))[1])):
        found = report(side, text)
        if found:
            note(f"{side}: {text.strip().splitlines()[-1]}")


def main():
    if os.environ["LAB_HOST"] == "h2":
        here("insmod /lab/mgmt.ko")
        mgmt.run("/lab/selftests/mgmt/mgmt.py", "open")
        serve()
    here("insmod /lab/mgmt.ko")
    with File() as f:
        f.load_policy(mgmt.OPEN_POLICY)
    for name in mgmt.guests():
        must("guest", "-T", "60", name, "insmod /lab/mgmt.ko", timeout=90)
        must("mgmtctl", "attach", name)
    if not until(lambda: socket.socket().connect_ex((H2, PORT)) == 0, 200):
        print("TAP version 13\n1..0 # SKIP h2 does not answer")
        sys.exit(1)
    mgmt.main(need_guests=0)


if __name__ == "__main__":
    main()
