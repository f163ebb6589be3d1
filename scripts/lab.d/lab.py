#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The lab's launcher; scripts/lab calls it in the build root."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from session import BROKEN, TOP, LabError, run_session

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


def options(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("guests")
    g.add_argument("--guests", default="", metavar="SPEC", help="[NAME=]pv|pvh[*COUNT][:mem=M][:vcpus=N],...: pv,pvh gives pv1 and pvh1")
    g.add_argument("--mem", type=int, default=160, metavar="M", help="MiB for each guest (160)")
    g.add_argument("--guest-vcpus", type=int, default=1, metavar="N", help="CPUs of each guest (1)")
    g.add_argument("--guest-args", default="", metavar="WORDS", help="more for their kernel's command line")
    g.add_argument("--guest-module", action="append", default=[], metavar="NAME", help="another stock module for their modprobe")
    g.add_argument("--net", action="store_true", help="a bridge: Dom0 is 10.77.0.1, the guests .11, .12, ...")
    g = p.add_argument_group("files (paths of the host; --put's destination is below /lab)")
    g.add_argument("--put", action="append", default=[], metavar="FILE[:DEST]", help="a file or directory for Dom0 (/lab/run)")
    g.add_argument("--guest-put", action="append", default=[], metavar="FILE[:DEST]", help="... for every guest (/lab), with the libraries it needs")
    g.add_argument("--get", action="append", default=[], metavar="PATH[:DEST]", help="bring this back from Dom0 at the end")
    g.add_argument("--out", metavar="DIR", help="where Dom0's /lab/out goes (also kept with the logs)")
    g.add_argument("--module", action="append", default=[], metavar="KO", help="modules for /lab, in Dom0 and guests (build/module/*.ko)")
    g.add_argument("--bin", action="append", default=[], metavar="PATH", help="programs for /lab/bin, or a directory of them (build/target/x86_64-unknown-linux-gnu/release)")
    g = p.add_argument_group("the machine")
    g.add_argument("--vcpus", type=int, default=1, metavar="N", help="CPUs of Dom0 (1; xl create hangs at times with more)")
    g.add_argument("--smp", type=int, default=2, metavar="N", help="CPUs of the machine (2)")
    g.add_argument("--dom0-mem", type=int, default=768, metavar="M", help="MiB for Dom0 (768)")
    g.add_argument("--spare-mem", type=int, default=0, metavar="M", help="MiB more for guests made later")
    g.add_argument("--dom0-args", default="", metavar="WORDS", help="more for Dom0's kernel")
    g.add_argument("--xen-args", default="", metavar="WORDS", help="more for Xen")
    g.add_argument("--bmc", action="store_true", help="a simulated BMC, on KCS: /dev/ipmi0")
    g.add_argument("--icount", action="store_true", help="time counts instructions, not the host's load")
    g.add_argument("--icount-shift", type=int, default=2, metavar="N", help="2^N ns for each (2)")
    g = p.add_argument_group("time and judgement")
    g.add_argument("--timeout", type=float, metavar="S", help="for all of it (run: 900, test: 1500, shell: none)")
    g.add_argument("--step-timeout", type=float, default=90, metavar="S", help="for each call of the toolstack (90)")
    g.add_argument("--boot-timeout", type=float, default=180, metavar="S", help="until Dom0 gives its first sign of life (180)")
    g.add_argument("--guest-timeout", type=float, default=180, metavar="S", help="until a new guest does (180)")
    g.add_argument("--silence", type=float, default=90, metavar="S", help="without a sign of life a domain hangs (90)")
    g.add_argument("--allow-warn", action="store_true", help="an oops or WARNING on a console does not fail the run")
    g.add_argument("-v", "--verbose", action="store_true", help="show Xen's and Dom0's console")
    g.add_argument("-q", "--quiet", action="store_true", help="only the command's output and the verdict")
    for name in ("image", "labcon", "release"):  # from scripts/lab
        p.add_argument(f"--{name}", help=argparse.SUPPRESS, default=os.environ.get(f"LAB_{name.upper()}"))


def defaults(args: argparse.Namespace, timeout: float) -> None:
    if args.timeout is None:
        args.timeout = timeout
    if not args.module:
        args.module = [str(p) for p in sorted((TOP / "build/module").glob("*.ko"))]
    if not args.bin:
        args.bin = [str(TOP / "build/target/x86_64-unknown-linux-gnu/release")]


def run(args: argparse.Namespace) -> int:
    if args.command and args.command[0] == "--":
        del args.command[0]
    if not args.command:
        raise LabError("run: what? See --help")
    args.mode = "run"
    defaults(args, 900)
    return run_session(args, "run")


def shell(args: argparse.Namespace) -> int:
    args.mode = "shell"
    args.command = []
    defaults(args, 0)
    return run_session(args, "shell")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="scripts/lab",
        description=DESCRIPTION,
        epilog=INSIDE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", required=True, metavar="run|shell")

    def verb(name: str, about: str, call: object) -> argparse.ArgumentParser:
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
    return p


def main() -> int:
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return int(args.call(args))
    except LabError as e:
        sys.stderr.write(f"lab: {e}\n")
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())
