# SPDX-License-Identifier: MIT OR Apache-2.0
"""The machine's BMC: QEMU's own, or one that runs beside the emulator and can be killed."""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import signal
import socket
import subprocess
from pathlib import Path

from error import LabError

PROGRAM = "mgmt-bmc"  # docs/bmc.md
# Its serial number, unless an option gives another; the machine's DMI table has it, too.
SERIAL = "LAB0001"
ANSWER = 5.0  # s
HERE = Path(__file__).resolve().parent
KCS = ["-device", "isa-ipmi-kcs,bmc=bmc0"]


def smbios(serial: str) -> list[str]:
    """The emulator's options for the machine's serial number, by which the hardware is found."""
    return ["-smbios", f"type=1,serial={serial}"]


def die_with_parent() -> None:
    """What the launcher starts must not outlive it, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Bmc:
    """None."""

    present = False
    external = False

    def machine(self) -> list[str]:
        """The emulator's options."""
        return []

    def sockets(self) -> list[socket.socket]:
        """Those that the emulator is to get."""
        return []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def ask(self, line: str) -> str:
        """Do what Dom0 asks for."""
        return f"error no BMC for {line!r}"


class Simulated(Bmc):
    """The emulator's own."""

    present = True

    def machine(self) -> list[str]:
        return ["-device", "ipmi-bmc-sim,id=bmc0", *KCS, *smbios(SERIAL)]


class External(Bmc):
    """One beside the emulator, which may go and come again."""

    present = True
    external = True

    def __init__(self, run: Path) -> None:
        self.run = run
        self.process: subprocess.Popen[bytes] | None = None

    def machine(self) -> list[str]:
        chardev = f"socket,id=bmc-vm,{self.address()}"
        bmc = ["-chardev", chardev, "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc-vm", *KCS]
        return [*bmc, *smbios(self.serial())]

    def serial(self) -> str:
        """The machine's."""
        return SERIAL

    def address(self) -> str:
        """Where they meet, for the emulator."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        command = self.command()
        (self.run / "bmc.sh").write_text(shlex.join(command) + "\n")
        with (self.run / "bmc.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment(),
                preexec_fn=die_with_parent,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, line: str) -> str:
        """ "kill" and "start" are done here, all else is the BMC's."""
        if line not in ("kill", "start"):
            return self.control(line)
        self.stop()
        if line == "start":
            self.start()
        return "ok"

    def control(self, line: str) -> str:
        return f"error this BMC knows no {line!r}"


class Ours(External):
    """mgmt-bmc.  It connects; the emulator listens."""

    def __init__(self, run: Path, options: str, places: list[str]) -> None:
        super().__init__(run)
        self.vm = socket.socket(socket.AF_UNIX)
        self.vm.bind(str(run / "bmc-vm.sock"))
        self.vm.listen(1)
        self.options = dict(option.partition("=")[::2] for option in options.split(",") if option)
        self.options.setdefault("serial", SERIAL)
        self.program = find(places)

    def serial(self) -> str:
        return self.options["serial"]

    def address(self) -> str:
        return f"fd={self.vm.fileno()},server=on,wait=off"

    def sockets(self) -> list[socket.socket]:
        return [self.vm]

    def command(self) -> list[str]:
        options = [f"--{name}={value}" if value else f"--{name}" for name, value in self.options.items()]
        sockets = ["--vm", str(self.run / "bmc-vm.sock"), "--control", str(self.run / "bmc.sock")]
        return [str(self.program), *sockets, "--trace", *options]

    def control(self, line: str) -> str:
        if self.process is None or self.process.poll() is not None:
            return "error there is no BMC running"
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(ANSWER)
                s.connect(str(self.run / "bmc.sock"))
                s.sendall(line.encode() + b"\n")
                return s.makefile().readline().rstrip("\n") or "error the BMC went away"
        except OSError as e:
            return f"error {e}"


class IpmiSim(External):
    """OpenIPMI's simulator.  It knows no DCMI.  It listens, on TCP only; when it connects, as it
    can, it does not answer."""

    def __init__(self, run: Path, root: str) -> None:
        super().__init__(run)
        self.root = root
        # It takes no socket, and does not tell of one: a number that is free now.
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]

    def address(self) -> str:
        return f"host=127.0.0.1,port={self.port},reconnect-ms=200"

    def command(self) -> list[str]:
        configuration = self.run / "ipmi_sim.conf"
        configuration.write_text(
            f'name "lab"\nset_working_mc 0x20\n  serial kcs 127.0.0.1 {self.port} codec VM\n'
        )
        return [
            f"{self.root}/usr/bin/ipmi_sim", "--nostdio", "--nopersist", "--state-dir", str(self.run / "ipmi_sim"),
            "--config-file", str(configuration), "--command-file", str(HERE / "ipmi_sim.emu"),
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": f"{self.root}/usr/lib/x86_64-linux-gnu"}


def find(places: list[str]) -> Path:
    for path in map(Path, places):
        program = path / PROGRAM if path.is_dir() else path
        if program.name == PROGRAM and os.access(program, os.X_OK):
            return program
    raise LabError(f"--bmc extern: no {PROGRAM} in {' '.join(places)}: scripts/cargo build --release")


def bmc_of(args: argparse.Namespace, run: Path) -> Bmc:
    """What --bmc asks for."""
    kind, _, options = (args.bmc or "none").partition(":")
    if kind == "extern":
        return Ours(run, options, args.bin)
    if kind == "ipmi_sim" and not options:
        if not args.ipmi_sim:
            raise LabError("--bmc ipmi_sim: not got")
        return IpmiSim(run, args.ipmi_sim)
    if kind in ("none", "sim") and not options:
        return Simulated() if kind == "sim" else Bmc()
    raise LabError(f"--bmc: cannot read {args.bmc!r}")
