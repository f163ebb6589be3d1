# SPDX-License-Identifier: GPL-2.0
"""Hostile peers: mgmt_rogue.ko in a guest attacks Dom0's backend, and in Dom0 a guest's frontend.

A case is a function that @front or @back gives a side that is ready to attack. Meanwhile another
guest's messages pass; at the end all that was held is given back, and both guests pass messages.
MGMT_ROGUE names the guest that attacks, or whose frontend is attacked: the second otherwise.
"""

import functools
import os
import subprocess
import time

import mgmt
import xs
from mgmt import Bystander, Failure, app_id, case, check, equal, guests, message, vm

ATTACKER = os.environ.get("MGMT_ROGUE") or (guests()[1] if len(guests()) > 1 else "")
DEVICE = f"mgmt-{mgmt.domid(ATTACKER)}-0" if ATTACKER else ""
HONEST = next((name for name in guests() if name != ATTACKER), "")
KO = "/lab/mgmt_rogue.ko"
KNOBS = {"order": 3, "grants": 0, "grantee": 0, "port": 0xFFFFFFFF, "stop": 0, "again": 0, "hold": 0}
READONLY, OTHER, SAME, GONE, SWAPPED = 1, 2, 3, 4, 5
SILENT, NODES, OFFERED = 1, 2, 3

INITIALISED, CONNECTED, CLOSING, CLOSED = "3", "4", "5", "6"


def front(node="", name=None):
    return f"/local/domain/{mgmt.domid(name or ATTACKER)}/device/mgmt/0{node and '/' + node}"


def back(node="", name=None):
    return f"/local/domain/0/backend/mgmt/{mgmt.domid(name or ATTACKER)}/0{node and '/' + node}"


def states(name=None):
    """Frontend's and backend's."""
    return xs.here(front("state", name)), xs.here(back("state", name))


def wait_states(wanted, text, timeout=20):
    if not mgmt.until(lambda: states() == wanted, timeout):
        raise Failure(f"{text}: frontend and backend are in states {states()}, not {wanted}")


def shell(script, timeout=120):
    status, output = mgmt.shell(script, timeout=timeout)
    check(status == 0, f"{script}: {output}")
    return output


def held():
    return shell("held").strip()


def bind_back(driver, action="bind"):
    """Gives the attacker's backend to a driver, or takes it away."""
    with open(f"/sys/bus/xen-backend/drivers/{driver}/{action}", "w") as f:
        f.write(DEVICE)


def grants():
    """Entries of the attacker's grant table, as Xen counts them."""
    for line in shell("grants").splitlines():
        number, count = line.split()
        if int(number) == mgmt.domid(ATTACKER):
            return int(count)
    raise Failure("Xen does not list the grants")


class Domain:
    """Where the rogue is: a guest, or Dom0."""

    def __init__(self, name=None):
        self.name = name
        self.knobs = None

    def sh(self, script, timeout=60):
        if self.name:
            return mgmt.in_guest(self.name, script, timeout)
        return mgmt.run("sh", "-c", script, timeout=timeout)

    def must(self, script, timeout=60):
        status, output = self.sh(script, timeout)
        if status:
            raise Failure(f"{self.name or 'Dom0'}: {script[:200]}: status {status}: {output}")
        return output

    def load(self, role, **knobs):
        self.must(f"grep -q '^mgmt_rogue ' /proc/modules || insmod {KO} role={role}")
        self.knobs = None
        self.set(**knobs)

    def unload(self):
        self.must("! grep -q '^mgmt_rogue ' /proc/modules || rmmod mgmt_rogue")

    def set(self, **knobs):
        values = {**KNOBS, **knobs}
        if values != self.knobs:
            writes = "; ".join(f"echo {value} >{knob}" for knob, value in values.items())
            self.must(f"cd /sys/kernel/debug/mgmt_rogue && {{ {writes}; }}")
        self.knobs = values

    def do(self, *commands, timeout=60):
        """Runs the rogue's commands. One whose channel was closed meanwhile is no error."""
        writes = "\n".join(f"echo {command} >command" for command in commands)
        log = "/tmp/rogue.errors"
        self.must(f"cd /sys/kernel/debug/mgmt_rogue\n{{ {writes}\n}} 2>{log}\n! grep nvalid {log}", timeout)

    STOP = "/tmp/rogue.stop"

    def start(self, command, seconds):
        """Repeats a command for so many seconds, whatever becomes of the channel; returns the process."""
        script = (
            f"rm -f {self.STOP}; cd /sys/kernel/debug/mgmt_rogue; end=$(($(date +%s) + {seconds}))\n"
            f"while [ ! -e {self.STOP} ] && [ $(date +%s) -lt $end ]; do\n"
            f"echo {command} >command || sleep 0.01; done 2>/dev/null"
        )
        run = ["guest", "-T", str(seconds + 60), self.name, script] if self.name else ["sh", "-c", script]
        return subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self, process):
        """Ends what `start` began."""
        self.must(f": >{self.STOP}")
        process.wait(60)

    def status(self):
        lines = self.must("cat /sys/kernel/debug/mgmt_rogue/status").splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}

    def received(self):
        """The next record of the other end: length, format, the rest."""
        data = bytes.fromhex(self.must("cat /sys/kernel/debug/mgmt_rogue/rx").strip())
        return (int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little"), data[8:]) if data else None


class Log:
    """Dom0's kernel log from here on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def count(self, text, but=None):
        """How many lines have it, and not the other; closes the log."""
        found = 0
        while True:
            try:
                line = os.read(self.fd, 8192).decode(errors="replace")
                found += text in line and not (but and but in line)
            except BlockingIOError:
                os.close(self.fd)
                return found
            except BrokenPipeError:
                continue


class FrontSide:
    """The rogue is the frontend in a guest, the victim is Dom0's backend."""

    def __init__(self):
        self.rogue = Domain(ATTACKER)
        self.source = vm(mgmt.domid(ATTACKER))
        self.victim = vm(0)
        self.error_node = f"/local/domain/0/error/backend/mgmt/{mgmt.domid(ATTACKER)}/0/error"

    def begin(self):
        shell(f"unload {ATTACKER}")
        self.rogue.load("front")
        wait_states((CONNECTED, CONNECTED), "connecting as it should be")

    def end(self):
        self.rogue.unload()
        shell(f"mgmtctl detach --if-needed {ATTACKER}; ready; round_trip {ATTACKER} 2; round_trip {HONEST} 2")

    def rebind(self):
        try:
            bind_back("mgmtback", "unbind")
            # What was offered to the last backend, or a storm left there, is not the first that this one sees.
            if not mgmt.until(lambda: xs.here(front("state")) not in (INITIALISED, CONNECTED), 3):
                xs.here(front("state"), CLOSED)
            bind_back("mgmtback")
        except OSError:
            # Some states of the frontend make the backend leave, as those of a removed device do.
            check(not os.path.exists(f"/sys/bus/xen-backend/devices/{DEVICE}"), f"{DEVICE} cannot be bound")
            shell(f"mgmtctl detach --if-needed {ATTACKER}; mgmtctl attach {ATTACKER}")

    def fresh(self, wait=(CONNECTED, CONNECTED), **knobs):
        """A backend that was bound just now and has not complained yet."""
        self.rogue.set(**knobs)
        xs.here(os.path.dirname(self.error_node), xs.REMOVE)
        self.log = Log()
        self.rebind()
        if wait and not mgmt.until(lambda: states() == wait, 10):
            # Behind a storm the rogue may take this backend for the one before.
            mgmt.note(f"the states are {states()}: the backend is bound once more")
            self.rebind()
            wait_states(wait, f"connecting with {knobs}")

    def complaints(self):
        # The kernel's own line of a grant that it cannot map comes with ours.
        return self.log.count(f"{DEVICE}:", but="mapping in shared page")

    def log_lines(self):
        """All that Dom0's log says of the device, by whomever."""
        return self.log.count(f"{DEVICE}:")


class BackSide:
    """The rogue is the backend in Dom0, for one guest; the victim is that guest's frontend."""

    def __init__(self):
        self.rogue = Domain()
        self.guest = Domain(ATTACKER)
        self.source = vm(0)
        self.victim = vm(mgmt.domid(ATTACKER))
        self.error_node = f"/local/domain/{mgmt.domid(ATTACKER)}/error/device/mgmt/0/error"

    def begin(self, **knobs):
        self.rogue.load("back", **knobs)
        bind_back("mgmtback", "unbind")
        bind_back("mgmt_rogue")

    def end(self):
        self.rogue.unload()
        bind_back("mgmtback")
        shell(f"ready; round_trip {ATTACKER} 2; round_trip {HONEST} 2")

    LINES = "dmesg | grep -c 'mgmt-0:' || :"

    def rebind(self):
        """Returns how many complaints there were."""
        bind = "cd /sys/bus/xen/drivers/mgmtfront && echo mgmt-0 >unbind && echo mgmt-0 >bind"
        return int(self.guest.must(f"{self.LINES}; {bind}"))

    def fresh(self, wait=(CONNECTED, CONNECTED), **knobs):
        self.rogue.set(**knobs)
        self.before = self.rebind()
        xs.here(os.path.dirname(self.error_node), xs.REMOVE)
        if wait:
            wait_states(wait, f"connecting with {knobs}")

    def complaints(self):
        return int(self.guest.must(self.LINES)) - self.before


def nobody(side, component=None, **fields):
    """A message to an App_ID that nobody has bound."""
    payload = fields.pop("payload", bytes(32))
    names = {"source_component": side.source, "source_app": app_id("Rogue")}
    return message("Nobody", component or side.victim, payload, **names, **fields)


class Attacks:
    """One side's attack, with another guest's traffic beside it; all that was held is given back."""

    def __init__(self, side, bystander=True):
        self.side = side
        self.bystander = Bystander(HONEST, count=500) if bystander else None

    def __enter__(self):
        mgmt.ready()
        self.held, self.grants = held(), grants()
        try:
            self.side.begin()
        except BaseException:
            self.side.end()
            raise
        if self.bystander:
            self.bystander.__enter__()
        return self.side

    def __exit__(self, *error):
        if self.bystander:
            self.bystander.__exit__(*error)
        self.side.end()
        check(mgmt.until(lambda: held() == self.held, 15), f"Dom0 held {self.held}, now {held()}")
        # What the other end still mapped comes back after a while.
        check(mgmt.until(lambda: grants() <= self.grants, 30), f"grants: {self.grants} before, {grants()} now")




def attack(side):
    """Makes the decorator of the cases in which that side attacks."""

    def mark(function=None, *, bystander=True, timeout=400):
        def wrap(attack_it):
            @functools.wraps(attack_it)
            def run():
                with Attacks(side(), bystander) as ready:
                    attack_it(ready)

            return case(run, timeout=timeout)

        return wrap(function) if function else wrap

    return mark


front_case = attack(FrontSide)
back_case = attack(BackSide)


def main():
    """Runs the cases of a test, and reads all kernels' logs at the end."""
    if not os.path.exists(KO):
        print("TAP version 13\n1..0 # SKIP no mgmt_rogue.ko")
        raise SystemExit(4)

    @case
    def no_trouble():
        """No kernel complained"""
        for name in ("dom0", *guests()):
            status, output = mgmt.shell(f'on {name} dmesg | grep -E -A 12 "$TROUBLE" && exit 1; true')
            check(status == 0, f"{name}: {output}")

    mgmt.main()
