#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A client of /dev/mgmt in plain Python, and what the tests in Python share.

    with File("Power") as f:
        f.write(message("Agent", vm(3), b"hello"))
        answer = f.read(5)

GuestFile is the same in a guest of the lab, through nothing but its shell.
"""

import base64
import ctypes
import errno
import fcntl
import functools
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback

DEVICE = "/dev/mgmt"
# All limits of time are so many times as long, for a machine that is slow or has other work.
PATIENCE = int(os.environ.get("LAB_PATIENCE", "1"))
os.environ["PATH"] = "/lab/bin:/usr/lib/xen-4.20/bin:" + os.environ.get("PATH", "")

# -- include/uapi/mgmt.h --

HEADER_LEN = 192
MAX_PAYLOAD = 1 << 20
MAX_MESSAGE = HEADER_LEN + MAX_PAYLOAD


def _ioc(direction, number, size):
    return direction << 30 | size << 16 | 0xCE << 8 | number


BIND = struct.Struct("<32sI28s")
INFO = struct.Struct("<II32s32sIIII32s")
MVM = struct.Struct("<16s16s")
LINK = struct.Struct("<IIQQQQQQIII20s")
POLICY_LOAD = struct.Struct("<QIII12s")
POLICY_READ = struct.Struct("<QII16s")
RULE = struct.Struct("<IIQ16s")
ACCOUNT = struct.Struct("<II6I6IQ16s")
FABRIC = struct.Struct("<QQ16s")
SETTLE = struct.Struct("<QII")
MOVED_AWAY = struct.Struct("<16s16s")
HERE = struct.Struct("<16sQ8s")
THERE = struct.Struct("<16sI12s")
EXCHANGE = struct.Struct("<QQII16s")
BIND_HARDWARE = struct.Struct("<32s32sI28s")
HARDWARE = struct.Struct("<32s16s")
HARDWARE_THERE = struct.Struct("<32sI12s")
IOC_BIND = _ioc(1, 1, BIND.size)
IOC_INFO = _ioc(2, 2, INFO.size)
IOC_SET_MVM = _ioc(1, 3, MVM.size)
IOC_LINK = _ioc(3, 4, LINK.size)
IOC_POLICY_LOAD = _ioc(3, 5, POLICY_LOAD.size)
IOC_POLICY_READ = _ioc(3, 6, POLICY_READ.size)
IOC_RULE = _ioc(3, 7, RULE.size)
IOC_ACCOUNT = _ioc(3, 8, ACCOUNT.size)
IOC_FABRIC = _ioc(3, 9, FABRIC.size)
IOC_FABRIC_SETTLE = _ioc(1, 10, SETTLE.size)
IOC_FABRIC_MOVED = _ioc(1, 11, MOVED_AWAY.size)
IOC_EXCHANGE = _ioc(3, 12, EXCHANGE.size)
IOC_FABRIC_HERE = _ioc(1, 13, HERE.size)
IOC_FABRIC_PLATFORM = _ioc(1, 14, THERE.size)
IOC_BIND_HARDWARE = _ioc(1, 15, BIND_HARDWARE.size)
IOC_HARDWARE = _ioc(3, 16, HARDWARE.size)
IOC_FABRIC_HARDWARE = _ioc(1, 17, HARDWARE_THERE.size)
UPLINK = 0xFFFFFFFF
RULE_BUILT_IN = 0x10000

BIND_SHARED = 1
INFO_BOUND, INFO_UPLINK, INFO_MVM = 1, 2, 4

# -- docs/wire-format.md --

DISCOVER, ESTABLISH, DATA, TERMINATE, PRESENCE, REPLY, UNDELIVERABLE = range(1, 8)
BROADCAST, REQUEST, NO_UNDELIVERABLE, BUNDLE = 1, 2, 4, 8
WATCH, UNWATCH, UP, DOWN, MOVED = (bytes([event, *bytes(7)]) for event in range(1, 6))
NO_COMPONENT, NO_ENDPOINT, DENIED, SHARE, PEER_GONE, DEADLINE, TOO_LARGE, HOPS = range(1, 9)

UNSPECIFIED = bytes(32)
SELF = bytes([4]) + bytes(31)
MVM_COMPONENT = bytes([5]) + bytes(31)
PLATFORM = bytes([6]) + bytes(31)
EVERYWHERE = bytes([7]) + bytes(31)


def vm(vm_id, ip=bytes(16)):
    """The component VM <MVM_IP, VM_ID>; without an address, of the sender's platform."""
    return struct.pack("<BBH16sI8s", 1, 20, 0, ip, vm_id, b"")


def stable(uuid):
    return struct.pack("<BBH16s12s", 2, 16, 0, uuid, b"")


def hardware(serial):
    return struct.pack("<BBH28s", 3, len(serial), 0, serial)


def app_id(name):
    raw = name if isinstance(name, bytes) else name.encode()
    return raw.ljust(32, b"\0")


class Message:
    """A message: its header's fields and its payload."""

    LAYOUT = struct.Struct("<BBBBHHIIQQII24s32s32s32s32s")
    FIELDS = (
        "version kind priority hops flags reason length app_header_length sequence correlation "
        "deadline_ms epoch reserved source_component source_app component app"
    ).split()

    def __init__(self, **fields):
        self.payload = fields.pop("payload", b"")
        defaults = {
            "version": 1,
            "kind": DATA,
            "length": len(self.payload),
            "reserved": bytes(24),
            "source_component": UNSPECIFIED,
            "source_app": bytes(32),
            "component": UNSPECIFIED,
            "app": bytes(32),
        }
        for name in self.FIELDS:
            setattr(self, name, fields.pop(name, defaults.get(name, 0)))
        if fields:
            raise TypeError(f"no field {fields}")

    @classmethod
    def decode(cls, data):
        values = cls.LAYOUT.unpack_from(data)
        return cls(payload=data[HEADER_LEN:], **dict(zip(cls.FIELDS, values)))

    def encode(self):
        return self.LAYOUT.pack(*(getattr(self, name) for name in self.FIELDS)) + self.payload

    def __repr__(self):
        shown = {n: getattr(self, n) for n in self.FIELDS}
        for name, value in shown.items():
            if isinstance(value, bytes):
                shown[name] = value.rstrip(b"\0").hex() if "component" in name else value.rstrip(b"\0")
        return f"<{' '.join(f'{n}={v}' for n, v in shown.items() if v)} payload={len(self.payload)}B>"


def message(app, component, payload=b"", **fields):
    return Message(app=app_id(app), component=component, payload=payload, **fields)


class File:
    """An open /dev/mgmt of this domain."""

    def __init__(self, app=None, nonblock=False, flags=0):
        self.fd = os.open(DEVICE, os.O_RDWR | (os.O_NONBLOCK if nonblock else 0))
        if app is not None:
            self.bind(app, flags)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def nonblock(self, on):
        os.set_blocking(self.fd, not on)

    def bind(self, app, flags=0, reserved=bytes(28)):
        fcntl.ioctl(self.fd, IOC_BIND, BIND.pack(app_id(app), flags, reserved))

    def bind_hardware(self, component, app, flags=0, reserved=bytes(28)):
        fcntl.ioctl(self.fd, IOC_BIND_HARDWARE, BIND_HARDWARE.pack(component, app_id(app), flags, reserved))

    def hardware_after(self, component, reserved=bytes(16)):
        return HARDWARE.unpack(fcntl.ioctl(self.fd, IOC_HARDWARE, HARDWARE.pack(component, reserved)))[0]

    def info(self):
        data = fcntl.ioctl(self.fd, IOC_INFO, bytes(INFO.size))
        names = "abi flags component app max_payload queue_bytes links endpoints reserved".split()
        return dict(zip(names, INFO.unpack(data)))

    def link(self, link_id):
        data = fcntl.ioctl(self.fd, IOC_LINK, LINK.pack(link_id, *[0] * 10, bytes(20)))
        names = (
            "id state rx_messages rx_bytes tx_messages tx_bytes undeliverable stalls "
            "queued_messages queued_bytes epoch reserved"
        ).split()
        return dict(zip(names, LINK.unpack(data)))

    def load_policy(self, text, length=None, reserved=bytes(12), address=None):
        """Returns where the mistake is, as (line, column); (0, 0) if there is none."""
        text = text.encode() if isinstance(text, str) else text
        buffer = ctypes.create_string_buffer(text, len(text) + 1)
        size = len(text) if length is None else length
        data = bytearray(POLICY_LOAD.pack(address or ctypes.addressof(buffer), size, 0, 0, reserved))
        try:
            fcntl.ioctl(self.fd, IOC_POLICY_LOAD, data)
        except OSError as e:
            if e.errno != errno.EINVAL or not POLICY_LOAD.unpack(data)[2]:
                raise
        return POLICY_LOAD.unpack(data)[2:4]

    def read_policy(self, room=1 << 20):
        """Returns the text and the number of rules."""
        buffer = ctypes.create_string_buffer(room)
        data = bytearray(POLICY_READ.pack(ctypes.addressof(buffer), room, 0, bytes(16)))
        fcntl.ioctl(self.fd, IOC_POLICY_READ, data)
        _, length, rules, _ = POLICY_READ.unpack(data)
        return buffer.raw[:length].decode(), rules

    def rule(self, number):
        """Returns its line, and how often it has decided."""
        data = fcntl.ioctl(self.fd, IOC_RULE, RULE.pack(number, 0, 0, bytes(16)))
        return RULE.unpack(data)[1:3]

    def account(self, owner):
        """What an account ("uid:0", "vm:3", "uplink", "fabric") has used, by slot; what it may; and refusals."""
        kind, _, number = owner.partition(":")
        asked = ({"uid": 1, "vm": 2, "uplink": 3, "fabric": 4}[kind], int(number or 0))
        data = fcntl.ioctl(self.fd, IOC_ACCOUNT, ACCOUNT.pack(*asked, *[0] * 13, bytes(16)))
        *found, refusals, _ = ACCOUNT.unpack(data)
        values = found[2:]
        if tuple(found[:2]) != asked:
            raise Failure(f"there is no account {owner}")
        names = "bytes messages endpoints watches replies pages".split()
        return dict(zip(names, values[:6])), dict(zip(names, values[6:])), refusals

    def set_mvm_ip(self, ip):
        fcntl.ioctl(self.fd, IOC_SET_MVM, MVM.pack(ip, bytes(16)))

    def exchange(self, send=b"", room=0, reserved=bytes(16)):
        """Sends and receives in one call: how many bytes were sent, and what was received."""
        out, came = ctypes.create_string_buffer(send, len(send) + 1), ctypes.create_string_buffer(room + 1)
        addresses = ctypes.addressof(out), ctypes.addressof(came)
        data = fcntl.ioctl(self.fd, IOC_EXCHANGE, EXCHANGE.pack(*addresses, len(send), room, reserved))
        _, _, sent, received, _ = EXCHANGE.unpack(data)
        return sent, came.raw[:received]

    def poll(self, timeout=0.0):
        """The events that hold, of all that there are."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN | select.POLLOUT | select.POLLPRI)
        return dict(poller.poll(timeout * 1000)).get(self.fd, 0)

    def readable(self, timeout=0.0):
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        return bool(dict(poller.poll(timeout * 1000)).get(self.fd, 0) & select.POLLIN)

    def write(self, what):
        data = what.encode() if isinstance(what, Message) else what
        written = os.write(self.fd, data)
        if written != len(data):
            raise Failure(f"write took {written} of {len(data)} bytes")

    def read(self, timeout=10.0, size=MAX_MESSAGE):
        """The next message, or None if there is none in time."""
        if not self.readable(timeout):
            return None
        return Message.decode(os.read(self.fd, size))


class FabricFile(File):
    """A file that carries the link to other platforms."""

    def __init__(self):
        super().__init__()
        try:
            data = fcntl.ioctl(self.fd, IOC_FABRIC, bytes(FABRIC.size))
        except OSError:
            self.close()
            raise
        self.lineage, self.accepted, _ = FABRIC.unpack(data)

    def read(self, timeout=10.0, size=8 + MAX_MESSAGE):
        """The next message and its number, or None if there is none in time."""
        if not self.readable(timeout):
            return None
        data = os.read(self.fd, size)
        return int.from_bytes(data[:8], "little"), Message.decode(data[8:])

    def settle(self, number, reason=0, reserved=0):
        fcntl.ioctl(self.fd, IOC_FABRIC_SETTLE, SETTLE.pack(number, reason, reserved))

    def moved(self, uuid):
        fcntl.ioctl(self.fd, IOC_FABRIC_MOVED, MOVED_AWAY.pack(uuid, bytes(16)))

    def here(self, uuid, number=(1 << 64) - 1, reserved=bytes(8)):
        fcntl.ioctl(self.fd, IOC_FABRIC_HERE, HERE.pack(uuid, number, reserved))

    def platform(self, ip, is_there, reserved=bytes(12)):
        fcntl.ioctl(self.fd, IOC_FABRIC_PLATFORM, THERE.pack(ip, is_there, reserved))

    def hardware(self, component, is_there, reserved=bytes(12)):
        fcntl.ioctl(self.fd, IOC_FABRIC_HARDWARE, HARDWARE_THERE.pack(component, is_there, reserved))


RELAY = r"""
exec 3<>/dev/mgmt || exit 3
f=/tmp/relay.$$
while read -r op arg more; do
	case $op in
	b) e=$(printf 'bind %s\n' "$arg" | dd bs=100 count=1 2>&1 >&3) && echo ok || echo "error $(echo $e)" ;;
	w) echo "$arg" | base64 -d >$f
	   e=$(dd if=$f bs=2M count=1 2>&1 >&3) && echo ok || echo "error $(echo $e)" ;;
	r) if timeout "$arg" dd bs=2M count=1 <&3 >$f 2>/dev/null; then base64 -w0 $f; echo; else echo none; fi ;;
	h) i=0; while [ $i -lt $arg ]; do
	     timeout $more dd bs=2M count=1 <&3 >$f 2>/dev/null || break
	     head -c 192 $f | base64 -w0; echo; i=$((i + 1))
	   done; echo end ;;
	s) timeout ${more#* } dd bs=65536 count=$arg <&3 >$f 2>/dev/null
	   hexdump -v -e '64/1 "%02x" "\n"' $f | awk "NR % $((${more% *} / 64)) ~ /^[123]\$/"; echo end ;;
	d) timeout $arg dd bs=65536 count=100000 <&3 >/dev/null 2>&1; echo end ;;
	esac
done
rm -f $f
"""

ERRNO = {os.strerror(n): n for n in errno.errorcode}


class GuestFile:
    """An open /dev/mgmt of a guest."""

    def __init__(self, guest, app=None):
        self.guest = guest
        self.process = subprocess.Popen(
            ["guest", "-i", guest, RELAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._rest = b""
        # busybox's timeout has a child that looks once a second whether its command has ended. The file
        # of an earlier reader is open until then.
        end = time.monotonic() + 5
        while app is not None:
            try:
                return self.bind(app)
            except OSError as e:
                if e.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise
            time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes the file there; returns when that is done."""
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise Failure(f"{self.guest}: closing /dev/mgmt hangs") from None

    def _line(self, timeout):
        end = time.monotonic() + timeout * PATIENCE
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failure(f"{self.guest}: no answer within {timeout} s")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise Failure(f"{self.guest}: the shell there ended ({self.process.wait()})")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def _ask(self, command, timeout=30):
        self.process.stdin.write(command.encode() + b"\n")
        return self._line(timeout)

    def _do(self, command):
        answer = self._ask(command)
        if answer == "ok":
            return
        for text, number in ERRNO.items():
            if f": {text} " in f"{answer} ":
                raise OSError(number, text)
        raise Failure(f"{self.guest}: {answer}")

    def bind(self, app):
        self._do(f"b {app}")

    def write(self, what):
        data = what.encode() if isinstance(what, Message) else what
        self._do(f"w {base64.b64encode(data).decode()}")

    def read(self, timeout=10):
        answer = self._ask(f"r {timeout}", timeout + 30)
        return None if answer == "none" else Message.decode(base64.b64decode(answer))

    def headers_of_same(self, count, size, timeout=60):
        """As headers(), for many messages of one size (a multiple of 64), quickly; in so many seconds."""
        found = []
        line = self._ask(f"s {count} {size} {timeout}", timeout + 60)
        while line != "end":
            parts = line, self._line(120), self._line(120)
            found.append(Message.decode(bytes.fromhex("".join(parts))))
            line = self._line(120)
        return found

    def drain(self, seconds=5):
        """Reads for so many seconds, and forgets it: a thousand messages a second at least."""
        self._ask(f"d {seconds}", seconds + 60)

    def headers(self, most, timeout=2):
        """Reads up to so many messages and returns them without their payloads."""
        found = []
        line = self._ask(f"h {most} {timeout}", 120)
        while line != "end":
            found.append(Message.decode(base64.b64decode(line)))
            line = self._line(120)
        return found


# -- the lab --


def guests():
    return os.environ.get("LAB_GUESTS", "").split()


@functools.cache
def domid(name):
    return int(subprocess.run(["xl", "domid", name], capture_output=True, check=True, timeout=30).stdout)


def run(*command, timeout=60, env=None):
    """Runs it; returns status and output, errors included."""
    timeout *= PATIENCE
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, env=env
    )
    return done.returncode, done.stdout.decode(errors="replace")


def in_guest(name, command, timeout=60):
    return run("guest", "-T", str(timeout * PATIENCE), name, command, timeout=timeout + 10)


def must(*command, timeout=60):
    status, output = run(*command, timeout=timeout)
    if status:
        raise Failure(f"{' '.join(command)}: status {status}: {output.strip()}")
    return output.strip()


def xenstore(path):
    return must("xenstore-read", path)


def shell(script, timeout=120):
    """A case in bash, with lib.sh; returns status and output."""
    here = os.path.dirname(os.path.abspath(__file__))
    body = f". {here}/lib.sh; need_lab 2; test_it() {{ {script}\n}}; (ktap_case test_it)"
    numbers = " ".join(str(domid(name)) for name in guests())
    return run("bash", "-c", body, timeout=timeout, env={**os.environ, "LAB_DOMIDS": numbers})


def ready():
    """Module loaded, guests attached and connected: what lib.sh's ready does."""
    status, output = shell("ready")
    if status:
        raise Failure(f"not ready: {output.strip()}")


def rebind(name):
    """Has the guest's backend disconnect and connect anew."""
    for action in ("unbind", "bind"):
        with open(f"/sys/bus/xen-backend/drivers/mgmtback/{action}", "w") as f:
            f.write(f"mgmt-{domid(name)}-0")


def until(condition, timeout=10.0):
    """Whether the condition comes true in time."""
    end = time.monotonic() + timeout * PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def settled(read, quiet=2.0, timeout=60.0):
    """Waits until a number has not changed for a while; returns it."""
    end = time.monotonic() + timeout
    last, since = read(), time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() > end:
            raise Failure(f"it does not come to rest: {last}")
        time.sleep(0.2)
        if (now := read()) != last:
            last, since = now, time.monotonic()
    return last


def debugfs(name):
    """The lines of a file of /sys/kernel/debug/mgmt, by their first word."""
    if not os.path.isdir("/sys/kernel/debug/mgmt"):
        must("mount", "-t", "debugfs", "none", "/sys/kernel/debug")
    with open(f"/sys/kernel/debug/mgmt/{name}") as f:
        return {line.split()[0]: line.strip() for line in f}


def meminfo(field):
    """KiB."""
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field + ":"))


class Bystander:
    """Another guest's traffic with Dom-M meanwhile: rounds of numbered messages both ways, until the end.

    In each round all must arrive, once, in order and undamaged. After it is a pause of the same length:
    the machine's CPUs are few, and others have work too.
    """

    def __init__(self, name=None, count=2000):
        self.name, self.count = name or guests()[1], count
        self.rounds = 0
        self._over = threading.Event()
        self._problem = None
        self._thread = threading.Thread(target=self._run)

    def _start(self, *command):
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _round(self):
        options = f"--timeout {150 * PATIENCE} duplex --app Bystander --count {self.count} --to Bystander@"
        there = self._start("guest", "-T", "160", self.name, f"mgmt-test {options}mvm")
        here = self._start("sh", "-c", f"exec mgmt-test {options}vm:{domid(self.name)}")
        perfect = f'"received":{self.count},"lost":0,"late":0,"damaged":0'
        for side in (here, there):
            output = side.communicate(timeout=170 * PATIENCE)[0].decode().strip()
            if side.returncode or perfect not in output:
                self._problem = f"{self.name} was disturbed in round {self.rounds}: {output}"

    def _run(self):
        while not self._problem and (not self.rounds or not self._over.is_set()):
            began = time.monotonic()
            self._round()
            self.rounds += 1
            self._over.wait(time.monotonic() - began)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(180)
        check(not self._thread.is_alive(), f"{self.name}: its round has no end")
        check(not self._problem, str(self._problem))


# -- KTAP --

CASES = []


class Failure(Exception):
    """A check that cannot be gone on after."""


class Skip(Exception):
    """The case cannot be run here."""


class _TimeUp(BaseException):
    pass


_failed = []


def case(function=None, *, timeout=120):
    """Marks a test case; its name, or the first line of its doc string, is its title."""

    def mark(f):
        CASES.append((f, timeout))
        return f

    return mark(function) if function else mark


def fail(text):
    """Fails the case and goes on."""
    frame = sys._getframe(1)
    while frame and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}: " if frame else ""
    _failed.append(text)
    print("\n".join("# " + line for line in f"FAIL {where}{text}".splitlines()), flush=True)


def has_failed():
    """Whether anything has failed in this case."""
    return bool(_failed)


def check(condition, text):
    if not condition:
        fail(text)
    return bool(condition)


def equal(text, wanted, got):
    return check(wanted == got, f"{text}: expected {wanted!r}, got {got!r}")


def raises(number, text, function, *args, **kwargs):
    """The call must fail with this errno."""
    name = errno.errorcode[number]
    try:
        result = function(*args, **kwargs)
    except OSError as e:
        return check(e.errno == number, f"{text}: expected {name}, got {errno.errorcode.get(e.errno, e.errno)}")
    return check(False, f"{text}: expected {name}, but it succeeded ({result!r})")


def note(text):
    print(f"# {text}", flush=True)


def _alarm(*_):
    raise _TimeUp


def main(need_guests=2):
    """Runs the cases; does not return."""
    problem = None
    if not os.path.exists("/proc/xen/capabilities") or "control_d" not in open("/proc/xen/capabilities").read():
        problem = "not Xen's Dom0"
    elif len(guests()) < need_guests:
        problem = f"fewer than {need_guests} guests in LAB_GUESTS"
    print("TAP version 13")
    if problem:
        print(f"1..0 # SKIP {problem}")
        sys.exit(4)
    chosen = [c for c in CASES if len(sys.argv) < 2 or c[0].__name__ in sys.argv[1:]]
    print(f"1..{len(chosen)}", flush=True)
    counts = {"pass": 0, "fail": 0, "skip": 0}
    for number, (function, timeout) in enumerate(chosen, 1):
        title = (function.__doc__ or function.__name__.replace("_", " ")).strip().splitlines()[0].rstrip(".")
        _failed.clear()
        signal.signal(signal.SIGALRM, _alarm)
        signal.alarm(timeout * PATIENCE)
        outcome, directive = "pass", ""
        began = time.monotonic()
        try:
            function()
        except Skip as e:
            outcome, directive = "skip", f" # SKIP {e}"
        except Failure as e:
            fail(str(e))
        except _TimeUp:
            fail(f"no end within {timeout * PATIENCE} s, here:\n{traceback.format_exc()}")
        except Exception:
            fail(traceback.format_exc())
        finally:
            signal.alarm(0)
        if _failed:
            outcome, directive = "fail", ""
        counts[outcome] += 1
        note(f"{function.__name__}: {time.monotonic() - began:.1f} s")
        print(f"{'not ok' if outcome == 'fail' else 'ok'} {number} {title}{directive}", flush=True)
    print(f"# Totals: pass:{counts['pass']} fail:{counts['fail']} xfail:0 xpass:0 skip:{counts['skip']} error:0")
    sys.exit(1 if counts["fail"] else 0 if counts["pass"] else 4)


# Every guest may talk to every other: what the tests that are not about rules need.
OPEN_POLICY = "allow * -> *"

if __name__ == "__main__":
    if sys.argv[1:] == ["open"]:
        with File() as dom_m:
            dom_m.load_policy(OPEN_POLICY)
    elif sys.argv[1:2] == ["counter"]:
        with File() as link_file:
            print(link_file.link(int(sys.argv[2]))[sys.argv[3]])
    else:
        sys.exit(__doc__)
