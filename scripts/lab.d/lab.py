#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The lab's launcher; scripts/lab calls it in the build root."""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from error import LabError
from payload import TOP
from session import BROKEN, Session, Stopped, new_run

DEBUG_KERNEL = os.environ.get("MGMT_DEBUG")

DESCRIPTION = """\
Boots real Xen with a stock Debian Dom0 in an emulated machine, starts guests with
the same stock kernel, and runs what it is given.  docs/lab.md tells the rest.
"""

INSIDE = """\
In Dom0, /lab/run is the working directory, /lab holds mgmt.ko, bin/ (in the PATH)
has our programs, and what is written to /lab/out comes back.  There are

  guest NAME COMMAND [ARG...]       run it in a guest: its output, its exit status
  guest-put NAME SOURCE DEST        copy into a guest
  guest-get NAME SOURCE DEST        copy out of it
  guest-create NAME pv|pvh [mem=160] [vcpus=1] ...     guest-destroy NAME
  guests                            what there is; also in $LAB_GUESTS

Guests have the same in /lab and a busybox.  modprobe and insmod are yours to call.

Exit status: the command's own; 124 when the time was up; 125 when the lab failed,
or a domain hung; 1 when all was well but a console showed an oops, a BUG or a
WARNING (see --allow-warn).  The last line gives the verdict.
"""

SOME_TESTS = """\
cd /lab/selftests
tests=()
for pattern; do
	for test in $(./run_kselftest.sh -x -l | grep -- "$pattern"); do
		tests+=(-t "$test")
	done
done
((${#tests[@]})) || { echo "no test has $* in its name" >&2; exit 2; }
exec ./run_kselftest.sh "${tests[@]}"
"""


def options(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("guests")
    g.add_argument(
        "--guests",
        default="",
        metavar="SPEC",
        help="[NAME=]pv|pvh[*COUNT][:mem=M][:vcpus=N],...: pv,pvh gives pv1 and pvh1",
    )
    g.add_argument("--mem", type=int, default=160, metavar="M", help="MiB for each guest (160); with a debug kernel it gets twice that")
    g.add_argument("--guest-vcpus", type=int, default=1, metavar="N", help="CPUs of each guest (1)")
    g.add_argument("--guest-args", default="", metavar="WORDS", help="more for their kernel's command line")
    g.add_argument(
        "--guest-module",
        action="append",
        default=[],
        metavar="NAME",
        help="another stock module for their modprobe",
    )
    g.add_argument("--two-hosts", action="store_true", help="a second host, h2, without guests, that runs the same command; the two are 10.78.0.1 and .2")
    g.add_argument("--net", action="store_true", help="a bridge: Dom0 is 10.77.0.1, the guests .11, .12, ...")
    g = p.add_argument_group("files (paths of the host; --put's destination is below /lab)")
    g.add_argument(
        "--put",
        action="append",
        default=[],
        metavar="FILE[:DEST]",
        help="a file or directory for Dom0 (/lab/run)",
    )
    g.add_argument(
        "--guest-put",
        action="append",
        default=[],
        metavar="FILE[:DEST]",
        help="... for every guest (/lab), with the libraries it needs",
    )
    g.add_argument(
        "--get",
        action="append",
        default=[],
        metavar="PATH[:DEST]",
        help="bring this back from Dom0 at the end",
    )
    g.add_argument("--out", metavar="DIR", help="where Dom0's /lab/out goes (also kept with the logs)")
    g.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="KO",
        help="modules for /lab, in Dom0 and guests (build/module/**/*.ko)",
    )
    g.add_argument(
        "--bin",
        action="append",
        default=[],
        metavar="PATH",
        help="programs for /lab/bin, or a directory of them (build/target/x86_64-unknown-linux-gnu/release)",
    )
    g = p.add_argument_group("the machine")
    g.add_argument("--vcpus", type=int, default=1, metavar="N", help="CPUs of Dom0 (1)")
    g.add_argument("--smp", type=int, default=2, metavar="N", help="CPUs of the machine (2)")
    g.add_argument("--dom0-mem", type=int, default=768, metavar="M", help="MiB for Dom0 (768)")
    g.add_argument("--spare-mem", type=int, default=0, metavar="M", help="MiB more for guests made later")
    g.add_argument("--dom0-args", default="", metavar="WORDS", help="more for Dom0's kernel")
    g.add_argument("--xen-args", default="", metavar="WORDS", help="more for Xen")
    g.add_argument("--cpu-args", default="", metavar="WORDS", help="more for QEMU's -cpu, such as -xsave")
    g.add_argument(
        "--bmc",
        nargs="?",
        const="sim",
        metavar="KIND",
        help="a BMC on KCS, /dev/ipmi0: sim (QEMU's; what it is without KIND), "
        "extern[:OPTION[=VALUE],...] (ours, with DCMI: docs/bmc.md; that of `test`), ipmi_sim (OpenIPMI's), or none",
    )
    g.add_argument(
        "--nvme",
        action="append",
        default=[],
        metavar="SERIAL[,OPTION=VALUE...]",
        help="an empty NVMe disk for Dom0, with options of QEMU's (`test` has two, one of them failing)",
    )
    g.add_argument("--icount", action="store_true", help="time counts instructions, not the host's load")
    g.add_argument("--icount-shift", type=int, default=2, metavar="N", help="2^N ns for each (2)")
    g = p.add_argument_group("time and judgement")
    g.add_argument(
        "--timeout", type=float, metavar="S", help="for all of it (run: 900, test: 4500, extended: 7200, shell: none)"
    )
    g.add_argument(
        "--step-timeout", type=float, default=90, metavar="S", help="for each call of the toolstack (90)"
    )
    g.add_argument(
        "--boot-timeout",
        type=float,
        default=180,
        metavar="S",
        help="until Dom0 gives its first sign of life (180)",
    )
    g.add_argument(
        "--guest-timeout", type=float, default=180, metavar="S", help="until a new guest does (180)"
    )
    g.add_argument(
        "--silence",
        type=float,
        metavar="S",
        help="without a sign of life a domain hangs (90; with --icount 300)",
    )
    g.add_argument(
        "--patience",
        type=int,
        default=5 if DEBUG_KERNEL else 1,
        metavar="N",
        help="N times as long for all of these, but a --timeout that is given, and for what the selftests"
        " wait for (1; a debug kernel 5)",
    )
    g.add_argument(
        "--allow-warn", action="store_true", help="an oops or WARNING on a console does not fail the run"
    )
    g.add_argument(
        "--keep",
        action="store_true",
        help="keep the run's images (qemu.sh boots them again, but for its sockets)",
    )
    g.add_argument("-v", "--verbose", action="store_true", help="show Xen's and Dom0's console")
    g.add_argument("-q", "--quiet", action="store_true", help="only the command's output and the verdict")
    for name in ("image", "kernel", "labcon", "release", "guest_release", "ipmi_sim"):  # from scripts/lab
        p.add_argument(f"--{name}", help=argparse.SUPPRESS, default=os.environ.get(f"LAB_{name.upper()}"))


def modules_of(debug: str | None) -> list[str]:
    """Our modules for Debian's kernel, or for a debug kernel."""
    objects = TOP / "build" / (f"module-{debug}" if debug else "module")
    return [str(p) for p in sorted(objects.rglob("*.ko"))]


def defaults(args: argparse.Namespace, timeout: float, echo: bool = True) -> None:
    args.echo = echo
    if args.timeout is None:
        args.timeout = timeout * args.patience
    # A debug kernel keeps books on all of its memory.
    args.room = 2 if DEBUG_KERNEL else 1
    if args.silence is None:
        args.silence = 300 if args.icount else 90
    for limit in ("step_timeout", "boot_timeout", "guest_timeout", "silence"):
        setattr(args, limit, getattr(args, limit) * args.patience)
    args.guest_modules = args.module or modules_of(DEBUG_KERNEL)
    args.module = args.module or modules_of(None)
    if not args.bin:
        args.bin = [str(TOP / "build/target/x86_64-unknown-linux-gnu/release")]


def run(args: argparse.Namespace) -> int:
    if args.command[:1] != ["--"] or len(args.command) < 2:
        raise LabError("run: give the command after --; see --help")
    del args.command[0]
    args.mode = "run"
    defaults(args, 900)
    return Session(args, new_run("run")).execute()


def shell(args: argparse.Namespace) -> int:
    args.mode = "shell"
    args.command = []
    defaults(args, 0)
    return Session(args, new_run("shell")).execute()


def test(args: argparse.Namespace) -> int:
    args.mode = "run"
    args.command = ["/lab/selftests/run_kselftest.sh", *(["--extended"] if args.extended else [])]
    if args.budget:
        args.command += ["--budget", str(args.budget)]
    if args.pattern:
        args.command = ["bash", "-c", SOME_TESTS, "lab test", *args.pattern]
    args.guests = args.guests or ("pvh,pvh" if DEBUG_KERNEL else "pv,pvh")
    args.bmc = args.bmc or "extern"
    args.nvme = args.nvme or ["DISK0001", "DISK0002,smart_critical_warning=4"]
    # migrate.py makes a guest, and for a while has it twice.
    args.spare_mem = max(args.spare_mem, 400)
    if not (TOP / "selftests/run_kselftest.sh").exists():
        raise LabError("there is no selftests/run_kselftest.sh")
    defaults(args, 7200 if args.extended else 4500)
    directory = new_run("test")
    (directory / "ktap.txt").symlink_to("output.log")
    return Session(args, directory).execute()


def two_hosts(args: argparse.Namespace) -> int:
    """What two hosts of the fabric do with each other; the selftests that need them."""
    args.mode = "run"
    args.two_hosts = True
    args.guests = args.guests or "mover=pvh:mem=144"
    args.command = ["/lab/selftests/fabric/two_hosts.py", *args.pattern]
    # The guest that comes to h2.
    args.spare_mem = max(args.spare_mem, 100)
    defaults(args, 1800)
    directory = new_run("two-hosts")
    (directory / "ktap.txt").symlink_to("output.log")
    return Session(args, directory).execute()


def soak(args: argparse.Namespace) -> int:
    """Boots in a row, each making guests; none is retried, all are counted."""
    args.mode = "run"
    args.quiet = True
    args.guests = args.guests or "pv,pvh"
    args.put = [*args.put, str(Path(__file__).parent / "soak.sh")]
    args.command = ["./soak.sh", str(args.creates)]
    defaults(args, 600, echo=False)
    top = new_run("soak")
    rows: list[list[str]] = []
    columns = ["Dom0 userspace", "toolstack ready", "guests up"]
    sys.stderr.write(f"lab: {args.boots} boots with {args.guests}, each with {args.creates} more creations\n")
    with (top / "soak.csv").open("w", newline="") as f:
        table = csv.writer(f)
        table.writerow(["boot", "verdict", "seconds", *columns, "reason"])
        for boot in range(1, args.boots + 1):
            directory = top / f"boot-{boot:02}"
            directory.mkdir()
            session = Session(args, directory)
            code = session.execute()
            at = dict(session.first.phases)
            seconds = [f"{at[c]:.1f}" if c in at else "" for c in columns]
            rows.append([str(boot), session.verdict, f"{session.seconds:.1f}", *seconds, session.reason])
            table.writerow(rows[-1])
            f.flush()
            if code == 130:
                break
    hung = sum(row[1] in ("HUNG", "TIMEOUT") for row in rows)
    failed = sum(row[1] != "PASS" for row in rows) - hung
    for row in [["boot", "verdict", "seconds", *columns, "reason"], *rows]:
        print(
            "  ".join(
                f"{cell:>{width}}" for cell, width in zip(row, [4, 11, 7, 14, 15, 9, 0], strict=True)
            ).rstrip()
        )
    print(f"{len(rows)} boots: {len(rows) - hung - failed} passed, {hung} hung, {failed} failed otherwise")
    return 1 if hung or failed else 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="scripts/lab",
        description=DESCRIPTION,
        epilog=INSIDE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", required=True, metavar="run|shell|test|two-hosts|soak")

    def verb(name: str, about: str, call: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        v = verbs.add_parser(
            name,
            help=about,
            description=about,
            epilog=INSIDE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        v.set_defaults(call=call)
        options(v)
        return v

    v = verb("run", "run a program of the host's, or a command, in Dom0", run)
    v.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND [ARG...]")
    verb("shell", "a shell in Dom0", shell)
    v = verb("test", "the selftests, with a PV and a PVH guest; KTAP on standard output", test)
    v.add_argument(
        "pattern",
        nargs="*",
        metavar="PATTERN",
        help="only tests whose COLLECTION:NAME matches (grep), long ones too",
    )
    v.add_argument("--extended", action="store_true", help="also the long tests")
    v.add_argument(
        "--budget", type=int, metavar="S", help="skip tests that would begin after this time, but for the last"
    )
    v = verb("two-hosts", "two hosts, and the selftests of the fabric between them", two_hosts)
    v.add_argument("pattern", nargs="*", metavar="CASE", help="only these cases")
    v = verb("soak", "boot again and again, making guests, and count what hangs", soak)
    v.add_argument("--boots", type=int, default=30, metavar="N", help="how often (30)")
    v.add_argument(
        "--creates",
        type=int,
        default=2,
        metavar="N",
        help="guests made and destroyed after those of --guests, caches dropped (2)",
    )
    return p


def stop(*_: object) -> None:
    raise Stopped


def main() -> int:
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        return int(args.call(args))
    except Stopped:
        return 143
    except LabError as e:
        sys.stderr.write(f"lab: {e}\n")
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())
