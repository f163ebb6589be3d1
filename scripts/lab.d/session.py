# SPDX-License-Identifier: MIT OR Apache-2.0
"""A run of the lab: boots Xen and Dom0 in QEMU, listens, and judges."""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import termios
import time
import tty
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import initrd

TOP = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

PASS, TIMEOUT, BROKEN = 0, 124, 125

DOM0_MODULES = ["virtio_blk", "squashfs", "overlay"]
GUEST_MODULES = [
    "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs", "xen-netfront", "xen-blkfront", "af_packet",
]  # fmt: skip

# What a console must not show.  Each is the kernel's or Xen's own wording.
TROUBLE = re.compile(
    r"\bBUG: |\bOops\b|Kernel panic|\bWARNING: |general protection fault|"
    r"blocked for more than \d+ seconds|self-detected stall|rcu: INFO: .*stall|rcu: .*kthread starved|"
    r"unable to handle (page fault|kernel)|refcount_t: |list_(add|del) corruption|"
    r"(SLUB|slab).*(Objects remaining|Poison overwritten)|Bad page state|possible recursive locking|"
    r"\(XEN\).*(Panic on CPU|FATAL|Xen BUG|Xen WARN|Assertion .* failed|DOUBLE FAULT|domain_crash|"
    r"Domain \d+ .*crashed)"
)


class LabError(Exception):
    """The lab itself failed, not what it ran."""


@dataclass
class Guest:
    name: str
    type: str
    options: list[str]

    def option(self, key: str, default: str) -> str:
        for option in self.options:
            if option.startswith(key + "="):
                return option.partition("=")[2]
        return default


def parse_guests(spec: str, mem: int, vcpus: int) -> list[Guest]:
    """TYPE[*N][:option=value...],...  gives pv1, pv2, pvh1, ...; NAME=TYPE names it."""
    guests: list[Guest] = []
    counts: dict[str, int] = {}
    for item in filter(None, spec.split(",")):
        match = re.fullmatch(r"(?:([a-z][a-z0-9-]*)=)?(pvh?)(?:[*x](\d+))?((?::[a-z]+=[^:]*)*)", item)
        if not match:
            raise LabError(f"--guests: cannot read {item!r}")
        name, kind, count, rest = match.groups()
        if name and count:
            raise LabError(f"--guests: {item!r} gives one name to {count} guests")
        options = rest.split(":")[1:]
        for _ in range(int(count or 1)):
            counts[kind] = counts.get(kind, 0) + 1
            guest = Guest(name or f"{kind}{counts[kind]}", kind, list(options))
            if not any(o.startswith("mem=") for o in options):
                guest.options.append(f"mem={mem}")
            if not any(o.startswith("vcpus=") for o in options):
                guest.options.append(f"vcpus={vcpus}")
            guests.append(guest)
    if len({g.name for g in guests}) != len(guests):
        raise LabError("--guests: two guests of one name")
    return guests


@dataclass
class Domain:
    """What the launcher knows of one domain."""

    name: str
    heard: float = 0.0
    state: str = "starting"
    tail: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    log: Path | None = None

    def line(self, text: str, stamp: float) -> None:
        if self.log is not None:
            with self.log.open("a", errors="replace") as f:
                f.write(f"[{stamp:8.2f}] {text}\n")
        self.tail = (self.tail + [text])[-15:]
        if TROUBLE.search(text):
            self.trouble.append(text)


def die_with_parent() -> None:
    """The emulator must not outlive the launcher, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Host:
    """One emulated machine with Xen on it."""

    def __init__(self, name: str, run: Path, image: Path, args: argparse.Namespace, guests: list[Guest]) -> None:
        self.name = name
        self.run = run
        self.image = image
        self.args = args
        self.guests = guests
        self.ports: dict[str, socket.socket] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def memory(self) -> int:
        """Dom0, the guests with what each costs beyond its own memory, and Xen."""
        guests = sum(int(g.option("mem", "160")) + 24 for g in self.guests)
        return int(self.args.dom0_mem + max(guests, 400) + self.args.spare_mem + 256)

    def command(self) -> list[str]:
        a = self.args
        cpu = "max,-rdtscp"
        accel, smp = "tcg,thread=multi", a.smp
        if a.icount:
            cpu += ",-x2apic,-tsc-deadline"
            accel, smp = "tcg,thread=single", 1
        xen = (
            f"console=com1 com1=115200,8n1 dom0_mem={a.dom0_mem}M,max:{a.dom0_mem}M dom0_max_vcpus={a.vcpus} "
            f"{'dom0_vcpus_pin ' if a.vcpus == 1 else ''}noreboot tsc=unstable spec-ctrl=eager-fpu {a.xen_args}"
        )
        linux = f"console=hvc0 clocksource=xen tsc=unstable panic=-1 {a.dom0_args}"
        command = [
            "qemu-system-x86_64", "-name", f"lab-{self.name}", "-accel", accel, "-machine", "q35", "-cpu", cpu,
            "-smp", str(smp), "-m", str(self.memory()), "-nodefaults", "-no-user-config", "-no-reboot",
            "-display", "none", "-kernel", str(self.image / "xen"), "-append", xen,
            "-initrd", f"{self.image / 'vmlinux'} {linux},{self.run / 'dom0.img'}",
        ]  # fmt: skip
        for i, disk in enumerate((self.image / "dom0.sqfs", self.run / "payload.sqfs")):
            command += [
                "-drive", f"file={disk},format=raw,if=none,id=d{i},readonly=on",
                "-device", f"virtio-blk-pci,drive=d{i}",
            ]  # fmt: skip
        if a.icount:
            command += ["-icount", f"shift={a.icount_shift},sleep=off"]
        if a.bmc:
            command += ["-device", "ipmi-bmc-sim,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0"]
        command += ["-device", "virtio-serial-pci,max_ports=8"]
        return command

    def start(self, ports: list[str]) -> None:
        """Ports are sockets handed to the emulator: no names in any file system."""
        command = self.command()
        theirs = []
        for port in ["serial", *ports]:
            mine, other = socket.socketpair()
            mine.setblocking(False)
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

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for s in self.ports.values():
            s.close()


class Session:
    """A run of the lab: prepares, boots, listens, and judges."""

    def __init__(self, args: argparse.Namespace, run: Path) -> None:
        self.args = args
        self.run = run
        self.t0 = time.monotonic()
        self.image = Path(args.image)
        self.guests = parse_guests(args.guests, args.mem, args.guest_vcpus)
        self.host = Host("h1", run, self.image, args, self.guests)
        self.domains: dict[str, Domain] = {
            "dom0": Domain("dom0", log=run / "dom0.log"),
        }
        for guest in self.guests:
            self.domain(guest.name)
        self.status: int | None = None
        self.done = False
        self.failure: tuple[str, str] | None = None  # verdict, reason
        self.started = False
        self.silent: set[str] = set()
        self.phases: list[tuple[str, float]] = []
        self.output = (run / "output.log").open("wb")
        self.files = (run / "out.tar").open("wb")
        self._partial: dict[str, bytes] = {}
        self.tails: dict[str, list[str]] = {}

    def domain(self, name: str) -> Domain:
        if name not in self.domains:
            self.domains[name] = Domain(name, log=self.run / f"{name}.log")
        return self.domains[name]

    def now(self) -> float:
        return time.monotonic() - self.t0

    def say(self, text: str) -> None:
        if not self.args.quiet:
            end = "\r\n" if self.args.mode == "shell" and self.started else "\n"
            sys.stderr.write(f"lab: [{self.now():6.1f}] {text}{end}")
            sys.stderr.flush()

    def phase(self, name: str) -> None:
        self.phases.append((name, self.now()))
        self.say(name)

    # -- preparing --

    def prepare(self) -> None:
        modules = initrd.Modules(self.image / "modules")
        self._dom0_initrd(modules)
        self._payload(modules)
        self.phase("prepared")

    def _dom0_initrd(self, modules: initrd.Modules) -> None:
        cpio = initrd.Cpio()
        cpio.device("dev/console", 5, 1)
        for name in ("proc", "sys"):
            cpio.directory(name)
        cpio.file("bin/busybox", self.image / "busybox", 0o755)
        cpio.file("init", HERE / "initrd.sh", 0o755)
        order = modules.closure(DOM0_MODULES)
        for path in order:
            cpio.file(f"modules/{Path(path).name}", modules.file(path))
        cpio.text("modules/order", "".join(f"{Path(p).name}\n" for p in order))
        cpio.write(self.run / "dom0.img")

    def _guest_initrd(self, modules: initrd.Modules, path: Path) -> None:
        cpio = initrd.Cpio()
        cpio.device("dev/console", 5, 1)
        for name in ("proc", "sys", "bin", "sbin", "etc", "lib64"):
            cpio.directory(name)
        cpio.file("bin/busybox", self.image / "busybox", 0o755)
        cpio.file("init", HERE / "guest-init.sh", 0o755)
        cpio.file("lab/bin/labcon", Path(self.args.labcon), 0o755)
        base = f"lib/modules/{self.args.release}"
        order = modules.closure(GUEST_MODULES + self.args.guest_module)
        for p in order:
            cpio.file(f"{base}/{p.removesuffix('.xz')}", modules.file(p))
        dep = {p: [d for d in modules.closure([p])[:-1]] for p in order}
        cpio.text(
            f"{base}/modules.dep",
            "".join(
                f"{p.removesuffix('.xz')}: {' '.join(d.removesuffix('.xz') for d in reversed(dep[p]))}\n"
                for p in order
            ),
        )
        programs = []
        for binary in self.binaries():
            cpio.file(f"lab/bin/{binary.name}", binary, 0o755)
            programs.append(binary)
        for module in self.our_modules():
            cpio.file(f"lab/{module.name}", module)
        for spec in self.args.guest_put:
            source, dest = put_spec(spec, "/lab")
            cpio.file(dest.lstrip("/"), source)
            programs += [p for p in ([source] if source.is_file() else source.rglob("*")) if p.is_file()]
        for library in sorted({lib for p in programs for lib in initrd.libraries(p)}):
            cpio.file(str(library).lstrip("/"), library.resolve(), 0o755)
        cpio.write(path)

    def our_modules(self) -> list[Path]:
        return [p for p in map(Path, self.args.module) if p.is_file()]

    def binaries(self) -> list[Path]:
        found = []
        for directory in map(Path, self.args.bin):
            if directory.is_dir():
                found += [p for p in sorted(directory.iterdir()) if p.is_file() and os.access(p, os.X_OK)]
            elif directory.is_file():
                found.append(directory)
        return found

    def _payload(self, modules: initrd.Modules) -> None:
        root = self.run / "payload"
        for name in ("bin", "boot", "run", "out"):
            (root / name).mkdir(parents=True)
        shutil.copy(HERE / "dom0-init.sh", root / "init")
        shutil.copy(HERE / "guest.sh", root / "bin" / "guest")
        for face in ("guest-put", "guest-get", "guest-create", "guest-destroy", "guest-attach", "guests"):
            (root / "bin" / face).symlink_to("guest")
        shutil.copy(self.args.labcon, root / "bin" / "labcon")
        # A link, not 60 MB copied for each run.
        link_or_copy(self.image / "vmlinux", root / "boot" / "vmlinux")
        self._guest_initrd(modules, root / "boot" / "guest.img")
        for module in self.our_modules():
            shutil.copy(module, root / module.name)
        for binary in self.binaries():
            shutil.copy(binary, root / "bin" / binary.name)
        selftests = TOP / "selftests"
        if selftests.is_dir():
            shutil.copytree(selftests, root / "selftests", symlinks=True)
        for spec in self.args.put:
            source, dest = put_spec(spec, "/lab/run")
            if not dest.startswith("/lab/"):
                raise LabError(f"--put {spec}: the destination must be below /lab")
            copy_any(source, root / dest.removeprefix("/lab/"))

        command = list(self.args.command)
        if command:
            program = Path(command[0])
            if program.exists() and "/" in command[0]:
                copy_any(program, root / "run" / program.name)
                command[0] = f"./{program.name}"
        (root / "command").write_text("exec " + shlex.join(command) + "\n" if command else "")
        (root / "guests").write_text("".join(f"{g.name} {g.type} {shlex.join(g.options)}\n" for g in self.guests))
        collect = []
        for i, spec in enumerate(self.args.get):
            path = spec.partition(":")[0]
            collect.append(f"mkdir -p /lab/out/.get/{i} && cp -a {shlex.quote(path)} /lab/out/.get/{i}/")
        if collect:
            (root / "collect").write_text("\n".join(collect) + "\n")
        size = shutil.get_terminal_size((80, 24))
        a = self.args
        conf = {
            "LAB_HOST": self.host.name,
            "LAB_MODE": a.mode,
            "LAB_NET": int(a.net),
            "LAB_BMC": int(a.bmc),
            "LAB_STEP": int(a.step_timeout),
            "LAB_GUEST_BOOT": int(a.guest_timeout),
            "LAB_GUEST_ARGS": a.guest_args,
            "LAB_RELEASE": a.release,
            "LAB_ROWS": size.lines,
            "LAB_COLS": size.columns,
            "LAB_TERM": os.environ.get("TERM", "linux"),
        }
        (root / "conf").write_text("".join(f"{k}={shlex.quote(str(v))}\n" for k, v in conf.items()))
        subprocess.run(
            ["mksquashfs", str(root), str(self.run / "payload.sqfs"), "-noappend", "-quiet", "-no-progress",
             "-noI", "-noD", "-noF", "-noX", "-no-xattrs", "-all-root"],
            check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        shutil.rmtree(root)

    # -- running --

    def execute(self) -> None:
        ports = ["log", "output", "files"]
        if self.args.mode == "shell":
            ports.append("terminal")
        self.host.start(ports)
        handlers: dict[str, Callable[[bytes], None]] = {
            "serial": lambda data: self._lines("serial", data, self._serial_line),
            "log": lambda data: self._lines("log", data, self._event),
            "output": self._script_output,
            "files": lambda data: void(self.files.write(data)),
            "terminal": lambda data: void(os.write(1, data)),
        }
        selector = selectors.DefaultSelector()
        for name, port in self.host.ports.items():
            selector.register(port, selectors.EVENT_READ, name)
        terminal = self.host.ports.get("terminal")
        if terminal is not None:
            selector.register(sys.stdin, selectors.EVENT_READ, "stdin")
        self.domains["dom0"].heard = self.now()
        deadline = self.args.timeout
        process = self.host.process
        assert process is not None
        while not self.done and self.failure is None:
            for key, _ in selector.select(0.5):
                if key.data == "stdin":
                    data = os.read(0, 4096)
                    if not data:
                        selector.unregister(sys.stdin)
                    elif terminal is not None:
                        terminal.setblocking(True)
                        terminal.sendall(data)
                        terminal.setblocking(False)
                    continue
                try:
                    data = self.host.ports[key.data].recv(65536)
                except BlockingIOError:
                    continue
                if data:
                    handlers[key.data](data)
                else:
                    selector.unregister(key.fileobj)
            if process.poll() is not None and not self.done:
                self._drain(handlers)
                if not self.done:
                    self.failure = ("FAIL", f"the machine stopped (emulator's status {process.returncode})")
            self._watch(deadline)
        self._drain(handlers)
        if self.failure is not None and process.poll() is None:
            self._ask_xen(handlers)

    def _ask_xen(self, handlers: dict[str, Callable[[bytes], None]]) -> None:
        """What Xen knows of its domains, for the log: it answers when Dom0 does not."""
        self.tails = {d.name: list(d.tail) for d in self.domains.values()}
        self.domains["dom0"].line("--- the launcher asks Xen: registers of Dom0, domains, run queues", self.now())
        serial = self.host.ports["serial"]
        serial.setblocking(True)
        serial.settimeout(2)
        try:
            serial.sendall(b"\x01\x01\x01")
            for key in (b"0", b"q", b"r", b"e"):
                serial.sendall(key)
                time.sleep(1)
                self._drain(handlers)
        except OSError:
            pass

    def _drain(self, handlers: dict[str, Callable[[bytes], None]]) -> None:
        for name, port in self.host.ports.items():
            while True:
                try:
                    data = port.recv(65536, socket.MSG_DONTWAIT)
                except (BlockingIOError, TimeoutError, ConnectionError):
                    break
                if not data:
                    break
                handlers[name](data)

    def _lines(self, source: str, data: bytes, handle: Callable[[str], None]) -> None:
        *lines, rest = (self._partial.get(source, b"") + data).split(b"\n")
        self._partial[source] = rest
        for line in lines:
            handle(line.decode(errors="replace").rstrip("\r"))

    def _serial_line(self, line: str) -> None:
        if not self.phases or self.phases[-1][0] == "prepared":
            self.phase("Xen")
        if "Linux version" in line:
            self.phase("Dom0 kernel")
        self.domains["dom0"].line(line, self.now())
        if self.args.verbose:
            sys.stderr.write(line + "\n")

    def _script_output(self, data: bytes) -> None:
        self.output.write(data)
        self.output.flush()
        os.write(1, data)

    def _event(self, line: str) -> None:
        name, kind, text = (line.split("\t", 2) + ["", ""])[:3]
        domain = self.domain(name)
        if kind == "l":
            domain.line(text, self.now())
            return
        domain.heard = self.now()
        if name == "dom0":
            domain.state = "up"
        if kind == "s":
            domain.state = text
            domain.line(f"--- {text}", self.now())
        elif name != "dom0":
            pass
        elif kind == "phase":
            self.phase(text)
        elif kind == "start":
            self.started = True
            self.phase(text)
            if self.args.mode == "shell":
                self.say("exit, or Ctrl-D, ends the lab")
                if sys.stdin.isatty():
                    tty.setraw(0)
        elif kind == "exit":
            self.status = int(text)
            self.phase(f"ended with status {text}")
        elif kind == "done":
            self.done = True
        elif kind == "fail":
            self.failure = ("FAIL", text)
        elif kind == "hung":
            self.failure = ("HUNG", text)

    def _watch(self, deadline: float) -> None:
        now = self.now()
        if deadline and now > deadline:
            self.failure = ("TIMEOUT", f"no end after {deadline:.0f} s")
            return
        limit = self.args.silence if self.domains["dom0"].state == "up" else self.args.boot_timeout
        for name, domain in self.domains.items():
            quiet = now - domain.heard
            if name == "dom0" and quiet > limit:
                self.failure = ("HUNG", f"dom0: no sign of life for {quiet:.0f} s")
            elif domain.state != "up" or quiet < self.args.silence:
                self.silent.discard(name)
            elif name not in self.silent:
                self.silent.add(name)
                self.say(f"{name}: no sign of life for {quiet:.0f} s")

    # -- judging --

    def finish(self) -> int:
        self.host.stop()
        self.output.close()
        self.files.close()
        self._unpack()
        with (self.run / "phases.csv").open("w") as f:
            f.write("phase,seconds\n")
            f.writelines(f"{name},{at:.1f}\n" for name, at in self.phases)
        trouble = [(d.name, line) for d in self.domains.values() for line in d.trouble]
        verdict, reason, code = "PASS", "", PASS
        if self.failure is not None:
            verdict, reason = self.failure
            code = TIMEOUT if verdict == "TIMEOUT" else BROKEN
        elif self.status is None:
            verdict, reason, code = "FAIL", "the lab ended without a status", BROKEN
        elif self.status != 0:
            verdict, reason, code = "FAIL", f"exit status {self.status}", self.status
        elif trouble and not self.args.allow_warn:
            verdict, reason, code = "FAIL", f"trouble on the console of {trouble[0][0]}", 1
        if verdict in ("HUNG", "TIMEOUT"):
            quiet = [n for n, d in self.domains.items() if n in self.silent]
            if quiet:
                reason += "; silent: " + ", ".join(quiet)
        self.report(verdict, reason, trouble)
        return code

    def report(self, verdict: str, reason: str, trouble: list[tuple[str, str]]) -> None:
        err = sys.stderr
        if trouble:
            for name, line in trouble[:20]:
                err.write(f"lab: {name}: {line}\n")
            if len(trouble) > 20:
                err.write(f"lab: ... and {len(trouble) - 20} lines more\n")
        if self.failure is not None:
            for domain in self.domains.values():
                if domain.name == "dom0" or domain.name in self.silent or domain.name in reason:
                    err.write(f"lab: the end of {domain.name}'s console ({domain.state}, heard {self.now() - domain.heard:.0f} s ago):\n")
                    err.writelines(f"    {line}\n" for line in self.tails.get(domain.name, domain.tail))
        steps = []
        last = 0.0
        for name, at in self.phases:
            steps.append(f"{name} {at - last:.1f}")
            last = at
        if not self.args.quiet:
            err.write(f"lab: seconds: {', '.join(steps)}\n")
        err.write(f"lab: {verdict} ({reason + ', ' if reason else ''}{self.now():.0f} s, logs in {shown(self.run)})\n")
        (self.run / "verdict").write_text(f"{verdict} {reason}\n")

    def _unpack(self) -> None:
        out = self.run / "out"
        archive = self.run / "out.tar"
        if archive.stat().st_size == 0:
            return
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(out, filter="data")
        except tarfile.TarError as e:
            self.say(f"files from Dom0 are damaged: {e}")
            return
        archive.unlink()
        for i, spec in enumerate(self.args.get):
            path, _, dest = spec.partition(":")
            source = out / ".get" / str(i) / Path(path).name
            if source.exists():
                copy_any(source, Path(dest or "."), into=True)
            else:
                self.say(f"--get {path}: it was not there")
        shutil.rmtree(out / ".get", ignore_errors=True)
        if self.args.out:
            shutil.copytree(out, self.args.out, dirs_exist_ok=True, symlinks=True)


def void(_: object) -> None:
    """For handlers that return nothing."""


def shown(path: Path) -> str:
    """As the caller knows it: below the source tree."""
    return str(path.relative_to(TOP)) if path.is_relative_to(TOP) else str(path)


def put_spec(spec: str, default: str) -> tuple[Path, str]:
    name, _, dest = spec.partition(":")
    source = Path(name)
    if not source.exists():
        raise LabError(f"{name}: no such file")
    if not dest:
        dest = f"{default}/{source.resolve().name}"
    elif dest.endswith("/"):
        dest += source.resolve().name
    return source, os.path.normpath(dest)


def link_or_copy(source: Path, dest: Path) -> None:
    try:
        os.link(source, dest)
    except OSError:
        shutil.copy(source, dest)


def copy_any(source: Path, dest: Path, into: bool = False) -> None:
    if into and dest.is_dir():
        dest = dest / source.name
    dest.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, dest, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy(source, dest)


def new_run(label: str) -> Path:
    base = TOP / "build" / "lab"
    base.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for n in range(100):
        run = base / f"{stamp}-{label}{'' if n == 0 else f'.{n}'}"
        try:
            run.mkdir()
        except FileExistsError:
            continue
        latest = base / f"latest.{os.getpid()}"
        latest.symlink_to(run.name)
        latest.replace(base / "latest")
        return run
    raise LabError("cannot make a directory for this run")


def run_session(args: argparse.Namespace, label: str) -> int:
    run = new_run(label)
    lab = Session(args, run)
    saved = termios.tcgetattr(0) if sys.stdin.isatty() else None
    try:
        lab.prepare()
        lab.execute()
    except KeyboardInterrupt:
        lab.failure = ("INTERRUPTED", "by the user")
    finally:
        lab.host.stop()
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        if args.mode == "shell" and saved is not None:
            sys.stderr.write("\n")
    return lab.finish()
