# SPDX-License-Identifier: MIT OR Apache-2.0
"""One emulated machine with Xen: how it is started, and what it tells."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bmc import bmc_of, die_with_parent

# What a console must not show, in the words of Linux and of Xen.
TROUBLE = re.compile(
    r"\bBUG: |\bOops\b|Kernel panic|\bWARNING: |general protection fault|"
    r"blocked for more than \d+ seconds|self-detected stall|rcu: INFO: .*stall|kthread starved|"
    r"unable to handle (page fault|kernel)|refcount_t: |list_(add|del) corruption|"
    r"Objects remaining|Poison overwritten|Bad page state|possible recursive locking|"
    r"(g\.e\.|grant).*still in use|\]: segfault at |"
    r"\(XEN\).*(Panic on CPU|FATAL|Triple fault|Xen BUG|Xen WARN|Assertion .* failed|DOUBLE FAULT|domain_crash|"
    r"Domain \d+ .*crashed)"
)
# After these Dom0 is gone for good.
CRASH = re.compile(r"\(XEN\).*(Domain 0 crashed|Panic on CPU)|Kernel panic - not syncing")
TAIL = 15  # lines of a console that a report shows
NVME_SIZE = 16 << 20


@dataclass
class Guest:
    """A guest that is to be there when the command starts."""

    name: str
    type: str
    options: dict[str, str]


@dataclass
class Domain:
    """What the launcher knows of one domain, Dom0 included."""

    name: str
    log: Path
    heard: float
    state: str = "starting"
    tail: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def line(self, text: str, now: float) -> None:
        with self.log.open("a", errors="replace") as f:
            f.write(f"[{now:8.2f}] {text}\n")
        self.tail = [*self.tail[1 - TAIL :], text]
        if TROUBLE.search(text):
            self.trouble.append(text)


@dataclass
class Failure:
    """Why a run ended before its command did."""

    verdict: str  # HUNG, TIMEOUT, FAIL or INTERRUPTED
    reason: str


class Host:
    """Boots with start(); receive() takes what its ports say; the rest is state."""

    def __init__(
        self,
        name: str,
        run: Path,
        image: Path,
        kernel: Path,
        guests: list[Guest],
        args: argparse.Namespace,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self.name = name
        self.run = run
        self.image = image
        self.kernel = kernel  # of guests: vmlinux, and modules/
        self.guests = guests
        self.args = args
        self.clock = clock
        self.say = say
        self.bmc = bmc_of(args, run)
        self.link: socket.socket | None = None  # the network with another host
        self.echo = args.echo
        self.ports: dict[str, socket.socket] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.domains: dict[str, Domain] = {}
        self.phases: list[tuple[str, float]] = []
        self.silent: set[str] = set()
        self.started = False  # the command
        self.status: int | None = None  # of the command
        self._ended = 0.0
        self.done = False
        self.failure: Failure | None = None
        self._crash: tuple[float, str] | None = None  # of Dom0 or Xen
        self._tails: dict[str, list[str]] = {}
        self._partial = {"serial": b"", "log": b"", "bmc": b""}
        self._output = (run / "output.log").open("wb")
        self._files = (run / "out.tar").open("wb")
        self.domain("dom0")

    def domain(self, name: str) -> Domain:
        if name not in self.domains:
            self.domains[name] = Domain(name, self.run / f"{name}.log", self.clock())
        return self.domains[name]

    def phase(self, name: str) -> None:
        self.phases.append((name, self.clock()))
        self.say(name if self.link is None else f"{self.name}: {name}")

    # -- the emulator --

    def memory(self) -> int:
        """Dom0, the guests with what each costs beyond its own memory, and Xen."""
        a = self.args
        guests = sum(int(g.options["mem"]) * a.room + 24 for g in self.guests)
        return int(a.dom0_mem + max(guests, 400) + a.spare_mem + 256)

    def command(self) -> list[str]:
        a = self.args
        # Xen emulates no rdtscp for PVH guests under TCG.
        cpu, accel, smp = "max,-rdtscp", "tcg,thread=multi", a.smp
        if a.icount:
            cpu += ",-x2apic,-tsc-deadline"  # else QEMU stops: "Bad icount read"
            accel, smp = "tcg,thread=single", 1
        # eager-fpu: QEMU's XSAVE and XRSTOR ignore CR0.TS, so that with Xen's
        # lazy way domains get each other's vector registers (docs/lab.md).
        xen = [
            "console=com1", "com1=115200,8n1", f"dom0_mem={a.dom0_mem}M,max:{a.dom0_mem}M",
            f"dom0_max_vcpus={a.vcpus}", "noreboot", "tsc=unstable", "spec-ctrl=eager-fpu",
        ]  # fmt: skip
        if a.vcpus == 1:
            xen.append("dom0_vcpus_pin")
        # The serial line is slow: warnings go there, all comes over the log port.
        linux = ["console=hvc0", "loglevel=5", "clocksource=xen", "tsc=unstable", "damon_stat.enabled=N", "panic=-1"]
        # In QEMU's -initrd a comma ends the module.
        if a.cpu_args:
            cpu += f",{a.cpu_args}"
        dom0_args = words(linux, a.dom0_args).replace(",", ",,")
        command = [
            "qemu-system-x86_64", "-name", f"lab-{self.name}", "-accel", accel, "-machine", "q35", "-cpu", cpu,
            "-smp", str(smp), "-m", str(self.memory()), "-nodefaults", "-no-user-config", "-no-reboot",
            "-display", "none", "-kernel", str(self.image / "xen"), "-append", words(xen, a.xen_args),
            "-initrd", f"{self.image / 'vmlinux'} {dom0_args},{self.run / 'dom0.img'}",
            "-device", "virtio-serial-pci,max_ports=8",
        ]  # fmt: skip
        for i, disk in enumerate((self.image / "dom0.sqfs", self.run / "payload.sqfs")):
            command += [
                "-drive", f"file={disk},format=raw,if=none,id=d{i},readonly=on",
                "-device", f"virtio-blk-pci,drive=d{i}",
            ]  # fmt: skip
        for i, disk in enumerate(a.nvme):
            image = self.run / f"nvme{i}.img"
            with image.open("wb") as f:
                f.truncate(NVME_SIZE)
            command += [
                "-drive", f"file={image},format=raw,if=none,id=nvme{i}",
                "-device", f"nvme,drive=nvme{i},serial={disk}",
            ]  # fmt: skip
        if a.icount:
            command += ["-icount", f"shift={a.icount_shift},sleep=off"]
        return command + self.bmc.machine()

    def start(self) -> None:
        """Ports are sockets handed over: nothing of them is in a file system."""
        command = self.command()
        ports = ["serial", "log", "output", "files"]
        if self.args.mode == "shell":
            ports.append("terminal")
        if self.bmc.external:
            ports.append("bmc")
        theirs = self.bmc.sockets()
        if self.link is not None:
            theirs.append(self.link)
            number = int(self.name.removeprefix("h"))
            command += [
                "-netdev", f"stream,id=link,addr.type=fd,addr.str={self.link.fileno()},server=off",
                "-device", f"virtio-net-pci,netdev=link,mac=52:54:00:78:00:{number:02x}",
            ]  # fmt: skip
        for port in ports:
            mine, other = socket.socketpair()
            self.ports[port] = mine
            theirs.append(other)
            command += ["-chardev", f"socket,id={port},fd={other.fileno()}"]
            if port == "serial":
                command += ["-serial", "chardev:serial"]
            elif port == "terminal":
                command += ["-device", f"virtconsole,chardev={port}"]
            else:
                command += ["-device", f"virtserialport,chardev={port},name={port}"]
        (self.run / "qemu.sh").write_text(shlex.join(command) + "\n")
        with (self.run / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[s.fileno() for s in theirs],
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        for s in theirs:
            s.close()
        self.bmc.start()
        self.domains["dom0"].heard = self.clock()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.bmc.stop()
        for s in self.ports.values():
            s.close()
        self.ports = {}
        self._output.close()
        self._files.close()

    # -- what it says --

    def receive(self, port: str) -> bool:
        """Take what a port has; False at its end."""
        try:
            data = self.ports[port].recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if port == "serial":
            self._lines(port, data, self._console)
        elif port == "log":
            self._lines(port, data, self._event)
        elif port == "bmc":
            self._lines(port, data, self._bmc)
        elif port == "output":
            self._output.write(data)
            self._output.flush()
            if self.echo:
                write_all(1, data)
        elif port == "files":
            self._files.write(data)
        elif port == "terminal":
            write_all(1, data)
        return bool(data)

    def drain(self) -> None:
        """Take what is there already."""
        for port, s in self.ports.items():
            while True:
                try:
                    if not s.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                        break
                except OSError:
                    break
                self.receive(port)

    def _lines(self, port: str, data: bytes, take: Callable[[str], None]) -> None:
        *lines, self._partial[port] = (self._partial[port] + data).split(b"\n")
        for line in lines:
            take(line.decode(errors="replace").rstrip("\r"))

    def _console(self, line: str) -> None:
        if not any(name == "Xen" for name, _ in self.phases):
            self.phase("Xen")
        if line.startswith("(XEN) Freed ") and line.endswith("init memory"):
            self.phase("Dom0 kernel")
        self.domains["dom0"].line(line, self.clock())
        if self._crash is None and CRASH.search(line):
            self._crash = (self.clock(), line)
        if self.args.verbose:
            sys.stderr.write(line + "\n")

    def _event(self, line: str) -> None:
        name, kind, text = [*line.split("\t", 2), "", ""][:3]
        domain = self.domain(name)
        if kind == "l":
            domain.line(text, self.clock())
            return
        domain.heard = self.clock()
        if kind == "s":
            domain.state = text
            domain.line(f"--- {text}", self.clock())
        if name != "dom0":
            return
        domain.state = "up"
        if kind == "phase":
            self.phase(text)
        elif kind == "start":
            self.started = True
            self.phase(text)
        elif kind == "exit":
            self.status = int(text)
            self._ended = self.clock()
            self.phase(f"ended with status {text}")
        elif kind == "done":
            self.done = True
        elif kind in ("fail", "hung"):
            self.fail(kind.upper(), text)

    def _bmc(self, line: str) -> None:
        """A tag, by which Dom0 knows the answer, and what is to be done to the BMC."""
        tag, _, text = line.partition(" ")
        answer = f"{tag} {self.bmc.ask(text)}\n"
        with contextlib.suppress(OSError):
            self.ports["bmc"].sendall(answer.encode())

    # -- judging --

    def fail(self, verdict: str, reason: str) -> None:
        if self.failure is None:
            self.failure = Failure(verdict, reason)

    def watch(self) -> None:
        """Notice who gives no sign of life."""
        if not self.alive() and not self.done:
            self.drain()
            if not self.done and self.process is not None:
                self.fail("FAIL", f"the machine stopped (emulator's status {self.process.returncode})")
            return
        now = self.clock()
        if self._crash is not None and now > self._crash[0] + 3:
            self.fail("FAIL", f"dom0 crashed: {self._crash[1]}")
        if self.status is not None and not self.done and now > self._ended + 120:
            self.fail("FAIL", "the command ended, but /lab/out does not come")
        for name, domain in self.domains.items():
            quiet = now - domain.heard
            if name == "dom0":
                limit = self.args.silence if domain.state == "up" else self.args.boot_timeout
                if quiet > limit:
                    self.silent.add(name)
                    self.fail("HUNG", f"dom0: no sign of life for {quiet:.0f} s")
            elif domain.state != "up" or quiet < self.args.silence:
                self.silent.discard(name)
            elif name not in self.silent:
                self.silent.add(name)
                self.say(f"{name}: no sign of life for {quiet:.0f} s")

    def ask(self, question: str) -> None:
        """A line for Dom0's init."""
        with contextlib.suppress(OSError):
            self.ports["log"].sendall(question.encode() + b"\n")

    def ask_xen(self) -> None:
        """Have Xen tell of its domains, for the log: it answers when Dom0 does not."""
        self._tails = {d.name: list(d.tail) for d in self.domains.values()}
        if not self.alive():
            return
        self.domains["dom0"].line(
            "--- asking Xen: Dom0's registers, domains, run queues, events", self.clock()
        )
        serial = self.ports["serial"]
        try:
            serial.settimeout(2)
            for key in (b"\x01\x01\x01", b"0", b"q", b"r", b"e", b"\x01\x01\x01"):
                serial.sendall(key)
                time.sleep(0.7)
                self.drain()
        except OSError:
            pass

    def tail(self, name: str) -> list[str]:
        return self._tails.get(name, self.domains[name].tail)


def words(these: list[str], more: str) -> str:
    return " ".join([*these, *more.split()])


def write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            time.sleep(0.01)
        except BrokenPipeError:
            return
