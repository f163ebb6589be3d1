# SPDX-License-Identifier: MIT OR Apache-2.0
"""A run of the lab: boots its hosts, listens to them, and judges."""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import socket
import sys
import tarfile
import termios
import time
import tty
from pathlib import Path
from typing import Any

from host import TAIL, Host
from payload import TOP, copy_any, parse_guests, prepare

PASS, TROUBLE, TIMEOUT, BROKEN, INTERRUPTED = 0, 1, 124, 125, 130


class Stopped(Exception):
    """SIGTERM came."""


class Session:
    """One run, in a directory of its own: of h1, or of h1 and h2 with a network between them.

    The first host has the guests, and its command's end is the run's.
    """

    def __init__(self, args: argparse.Namespace, run: Path) -> None:
        self.args = args
        self.run = run
        self._t0 = time.monotonic()
        self._raw: list[Any] | None = None  # the terminal as it was
        guests = parse_guests(args.guests, args.mem, args.guest_vcpus)
        self.hosts = [Host("h1", run, Path(args.image), Path(args.kernel), guests, args, self.now, self.say)]
        if args.two_hosts:
            there = run / "h2"
            there.mkdir()
            self.hosts.append(Host("h2", there, Path(args.image), Path(args.kernel), [], args, self.now, self.say))
            self.hosts[1].echo = False
            self.hosts[0].link, self.hosts[1].link = socket.socketpair()
        self.verdict = ""
        self.reason = ""
        self.seconds = 0.0

    @property
    def first(self) -> Host:
        return self.hosts[0]

    def now(self) -> float:
        return time.monotonic() - self._t0

    def say(self, text: str) -> None:
        if not self.args.quiet:
            sys.stderr.write(f"lab: [{self.now():6.1f}] {text}{chr(13) if self._raw else ''}\n")
            sys.stderr.flush()

    def execute(self) -> int:
        """All of it; returns the exit status."""
        try:
            for host in self.hosts:
                prepare(host, list(self.args.command), self.args)
                host.phase("prepared")
                host.start()
            self._listen()
        except (KeyboardInterrupt, Stopped) as e:
            self.first.fail("INTERRUPTED", "by SIGTERM" if isinstance(e, Stopped) else "from the keyboard")
        finally:
            self.seconds = self.now()
            for host in self.hosts:
                host.stop()
            self._cooked()
        code = self._judge()
        self._report()
        return code

    # -- listening --

    def _listen(self) -> None:
        selector = selectors.DefaultSelector()
        for host in self.hosts:
            for name, port in host.ports.items():
                selector.register(port, selectors.EVENT_READ, (host, name))
        terminal = self.first.ports.get("terminal")
        typing = False
        first = self.first
        while not first.done and not any(h.failure for h in self.hosts):
            for key, _ in selector.select(0.5):
                host, name = key.data
                if host is not None:
                    if not host.receive(name):
                        selector.unregister(key.fileobj)
                elif terminal is not None:
                    data = os.read(0, 4096)
                    if data:
                        terminal.sendall(data)
                    else:
                        selector.unregister(key.fileobj)
                        terminal.sendall(b"\x04")
            if terminal is not None and first.started and not typing:
                typing = True
                self.say("this is Dom0; exit, or Ctrl-D, ends the lab")
                self._make_raw()
                selector.register(0, selectors.EVENT_READ, (None, "stdin"))
            for host in self.hosts:
                host.watch()
                if host is not first and host.status is not None:
                    host.fail("FAIL", f"the command on {host.name} ended (status {host.status})")
            if self.args.timeout and self.now() > self.args.timeout:
                first.fail("TIMEOUT", f"no end after {self.args.timeout:.0f} s")
                self._ask_dom0(selector)
        for host in self.hosts:
            host.drain()
            if any(h.failure for h in self.hosts):
                host.ask_xen()

    def _ask_dom0(self, selector: selectors.BaseSelector) -> None:
        """When time is up: /lab/out, and what Dom0 knows, if it still answers."""
        self.first.ask("what is going on?")
        end = self.now() + 30
        while self.now() < end and not self.first.done and self.first.alive():
            for key, _ in selector.select(0.5):
                host, name = key.data
                if host is not None and not host.receive(name):
                    selector.unregister(key.fileobj)

    def _make_raw(self) -> None:
        if sys.stdin.isatty():
            self._raw = termios.tcgetattr(0)
            tty.setraw(0)

    def _cooked(self) -> None:
        if self._raw is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._raw)
            self._raw = None
            sys.stderr.write("\n")

    # -- judging --

    def trouble(self) -> list[tuple[str, str]]:
        return [(d.name, line) for h in self.hosts for d in h.domains.values() for line in d.trouble]

    def _judge(self) -> int:
        self._unpack()
        first = self.first
        failed = next((h for h in self.hosts if h.failure), first)
        failure = failed.failure
        trouble = self.trouble()
        if failure is not None:
            self.verdict, self.reason = failure.verdict, failure.reason
            if failed is not first:
                self.reason = f"{failed.name}: {self.reason}"
            others = [n for h in self.hosts for n in sorted(h.silent) if n not in failure.reason]
            if others:
                self.reason += "; no sign of life from " + ", ".join(others)
            return {"TIMEOUT": TIMEOUT, "INTERRUPTED": INTERRUPTED}.get(failure.verdict, BROKEN)
        status = first.status if first.status is not None else BROKEN
        if self.args.mode == "shell":
            self.verdict, self.reason = "ENDED", f"exit status {status}"
            return status
        if status:
            self.verdict, self.reason = "FAIL", f"exit status {status}"
            return status
        if trouble and not self.args.allow_warn:
            self.verdict, self.reason = "FAIL", f"trouble on the console of {trouble[0][0]}"
            return TROUBLE
        self.verdict = "PASS"
        return PASS

    def _report(self) -> None:
        err = sys.stderr
        sys.stdout.flush()
        trouble = self.trouble()
        for name, line in trouble[:20]:
            err.write(f"lab: {name}: {line}\n")
        if len(trouble) > 20:
            err.write(f"lab: ... and {len(trouble) - 20} lines more\n")
        for host in self.hosts:
            self._show_consoles(host)
            host_phases(host.run / "phases.csv", host)
        if not self.args.quiet:
            steps = zip(self.first.phases, [("", 0.0), *self.first.phases], strict=False)
            err.write(
                f"lab: seconds: {', '.join(f'{n} {at - before:.1f}' for (n, at), (_, before) in steps)}\n"
            )
        reason = f"{self.reason}; " if self.reason else ""
        err.write(f"lab: {self.verdict} ({reason}{self.seconds:.0f} s, logs in {shown(self.run)})\n")
        err.flush()
        (self.run / "verdict").write_text(f"{self.verdict} {self.reason}\n")
        if not self.args.keep:
            for host in self.hosts:
                for name in ("payload.sqfs", "dom0.img"):
                    (host.run / name).unlink(missing_ok=True)
                shutil.rmtree(host.run / "payload", ignore_errors=True)

    def _show_consoles(self, host: Host) -> None:
        """Of whom the run ended, and of whoever hangs while it fails."""
        if self.verdict in ("PASS", "ENDED", "INTERRUPTED"):
            return
        reason = host.failure.reason if host.failure is not None else None
        if reason is not None and host is not self.first:
            lines = (host.run / "output.log").read_text(errors="replace").splitlines()
            sys.stderr.write(f"lab: the end of the output on {host.name}:\n")
            sys.stderr.writelines(f"    {line}\n" for line in lines[-TAIL:])
        for d in host.domains.values():
            if d.name in host.silent or reason is not None and (d.name == "dom0" or d.name in reason):
                age = self.seconds - d.heard
                sys.stderr.write(
                    f"lab: the end of {d.name}'s console on {host.name} "
                    f"({d.state}, last sign of life {age:.0f} s ago):\n"
                )
                sys.stderr.writelines(f"    {line}\n" for line in host.tail(d.name))

    def _unpack(self) -> None:
        archive, out = self.run / "out.tar", self.run / "out"
        if archive.stat().st_size:
            try:
                with tarfile.open(archive) as tar:
                    tar.extractall(out, filter="tar")
            except (tarfile.TarError, OSError) as e:
                self.say(f"files from Dom0 are damaged: {e}")
                return
        archive.unlink()
        for i, spec in enumerate(self.args.get):
            path, _, dest = spec.partition(":")
            source, target = out / ".get" / str(i) / Path(path).name, Path(dest or ".")
            if not source.exists():
                self.say(f"--get {path}: it was not there")
                continue
            copy_any(source, target / source.name if target.is_dir() else target)
        shutil.rmtree(out / ".get", ignore_errors=True)
        if self.args.out and out.is_dir():
            shutil.copytree(out, self.args.out, dirs_exist_ok=True, symlinks=True)


def host_phases(path: Path, host: Host) -> None:
    path.write_text("phase,seconds\n" + "".join(f"{name},{at:.1f}\n" for name, at in host.phases))


def shown(path: Path) -> str:
    """As the caller knows it: below the source tree."""
    return str(path.relative_to(TOP)) if path.is_relative_to(TOP) else str(path)


def new_run(label: str) -> Path:
    """A directory for a run, which build/lab/latest then points to."""
    base = TOP / "build" / "lab"
    base.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    n = 0
    while True:
        run = base / f"{stamp}-{label}{f'.{n}' if n else ''}"
        try:
            run.mkdir()
            break
        except FileExistsError:
            n += 1
    link = base / f"latest.{os.getpid()}"
    link.symlink_to(run.name)
    link.replace(base / "latest")
    return run
