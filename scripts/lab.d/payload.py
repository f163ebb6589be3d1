# SPDX-License-Identifier: MIT OR Apache-2.0
"""What goes into the machine: Dom0's initrd, the guests', and /lab."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from bmc import PROGRAM as BMC  # runs beside the emulator, not in it
from error import LabError
from host import Guest, Host
from initrd import Cpio, Modules, libraries

TOP = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

DOM0_MODULES = ["virtio_blk", "squashfs", "overlay"]
DOM_M_ALONE = {"mgmtd", "mgmt-fabric", "mgmt-smart"}
GUEST_MODULES = ["xen-evtchn", "xen-gntdev", "xen-gntalloc", "xenfs", "xen-netfront", "xen-blkfront"]


def parse_guests(spec: str, mem: int, vcpus: int) -> list[Guest]:
    """[NAME=]TYPE[*COUNT][:option=value]...,...  gives pv1, pv2, pvh1, ..."""
    guests: list[Guest] = []
    counts: dict[str, int] = {}
    for item in filter(None, spec.split(",")):
        match = re.fullmatch(
            r"(?:([a-z][a-z0-9-]*)=)?(pvh?)(?:[*x](\d+))?((?::(?:mem|vcpus|net)=\d+)*)", item
        )
        if not match:
            raise LabError(f"--guests: cannot read {item!r}")
        name, kind, count, rest = match.groups()
        if name and count:
            raise LabError(f"--guests: {item!r} gives one name to {count} guests")
        options = {"mem": str(mem), "vcpus": str(vcpus)}
        for option in rest.split(":")[1:]:
            key, _, value = option.partition("=")
            options[key] = value
        for _ in range(int(count or 1)):
            counts[kind] = counts.get(kind, 0) + 1
            guests.append(Guest(name or f"{kind}{counts[kind]}", kind, dict(options)))
    names = [g.name for g in guests]
    if len(set(names)) != len(names) or "dom0" in names:
        raise LabError("--guests: a name is taken")
    return guests


def prepare(host: Host, command: list[str], args: argparse.Namespace) -> None:
    """Write dom0.img and payload.sqfs into the host's directory."""
    dom0_initrd(host, Modules(host.image / "modules"))
    root = host.run / "payload"
    for name in ("bin", "boot", "run", "out"):
        (root / name).mkdir(parents=True)
    shutil.copy(HERE / "dom0-init.sh", root / "init")
    shutil.copy(HERE / "guest.sh", root / "bin" / "guest")
    for face in ("guest-put", "guest-get", "guest-create", "guest-destroy", "guest-attach", "guests"):
        (root / "bin" / face).symlink_to("guest")
    shutil.copy(args.labcon, root / "bin" / "labcon")
    shutil.copy(HERE / "bmc.sh", root / "bin" / "bmc")
    link_or_copy(host.kernel / "vmlinux", root / "boot" / "vmlinux")
    guest_initrd(host, Modules(host.kernel / "modules"), root / "boot" / "guest.img", args)
    for module in our_modules(args):
        shutil.copy(module, root / module.name)
    for program in our_programs(args):
        shutil.copy(program, root / "bin" / program.name)
    if (TOP / "selftests").is_dir():
        shutil.copytree(TOP / "selftests", root / "selftests", symlinks=True)
    if (TOP / "userspace/python").is_dir():
        shutil.copytree(TOP / "userspace/python", root / "python")
    library = TOP / "build/library/release/libmgmt-channel.so.0"
    if library.is_file():
        shutil.copy(library, root / library.name)
    for spec in args.put:
        source, dest = split_put(spec, "/lab/run")
        if not dest.startswith("/lab/"):
            raise LabError(f"--put {spec}: the destination must be below /lab")
        copy_any(source, root / dest.removeprefix("/lab/"))
    if command and is_ours(command[0]):
        program = Path(command[0])
        copy_any(program, root / "run" / program.name)
        command = [f"./{program.name}", *command[1:]]
    (root / "command").write_text(f"exec {shlex.join(command)}\n" if command else "")
    (root / "guests").write_text(
        "".join(
            f"{g.name} {g.type} {' '.join(f'{k}={v}' for k, v in g.options.items())}\n" for g in host.guests
        )
    )
    (root / "collect").write_text(
        "".join(
            f"mkdir -p /lab/out/.get/{i}; cp -a {shlex.quote(spec.partition(':')[0])} /lab/out/.get/{i}/\n"
            for i, spec in enumerate(args.get)
        )
    )
    size = shutil.get_terminal_size((80, 24))
    conf = {
        "LAB_HOST": host.name,
        "LAB_MODE": args.mode,
        "LAB_NET": int(args.net),
        "LAB_LINK": int(host.link is not None),
        "LAB_BMC": int(host.bmc.present),
        "LAB_STEP": int(args.step_timeout),
        "LAB_GUEST_BOOT": int(args.guest_timeout),
        "LAB_SILENCE": int(args.silence),
        "LAB_PATIENCE": args.patience,
        "LAB_ROOM": args.room,
        "LAB_GUEST_ARGS": args.guest_args,
        "LAB_RELEASE": args.release,
        "LAB_ROWS": size.lines,
        "LAB_COLS": size.columns,
        "LAB_TERM": os.environ.get("TERM", "linux"),
    }
    (root / "conf").write_text("".join(f"{k}={shlex.quote(str(v))}\n" for k, v in conf.items()))
    image = host.run / "payload.sqfs"
    result = subprocess.run(
        ["mksquashfs", str(root), str(image), "-noappend", "-quiet", "-no-progress", "-no-compression",
         "-no-xattrs", "-all-root"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise LabError(f"mksquashfs: {result.stderr[:500]}")
    shutil.rmtree(root)


def dom0_initrd(host: Host, modules: Modules) -> None:
    cpio = Cpio()
    cpio.device("dev/console", 5, 1)
    for name in ("proc", "sys"):
        cpio.directory(name)
    cpio.file("bin/busybox", host.image / "busybox", 0o755)
    cpio.file("init", HERE / "initrd.sh", 0o755)
    order = modules.closure(DOM0_MODULES)
    for path in order:
        cpio.file(f"modules/{Path(path).name}", modules.file(path))
    cpio.text("modules/order", "".join(f"{Path(p).name}\n" for p in order))
    cpio.write(host.run / "dom0.img")


def guest_initrd(host: Host, modules: Modules, path: Path, args: argparse.Namespace) -> None:
    cpio = Cpio()
    cpio.device("dev/console", 5, 1)
    for name in ("proc", "sys", "bin", "sbin", "etc", "lib64"):
        cpio.directory(name)
    cpio.file("bin/busybox", host.image / "busybox", 0o755)
    cpio.file("init", HERE / "guest-init.sh", 0o755)
    cpio.file("lab/bin/labcon", Path(args.labcon), 0o755)
    base = f"lib/modules/{args.guest_release}"
    order = modules.closure(GUEST_MODULES + args.guest_module)
    for p in order:
        cpio.file(f"{base}/{unpacked(p)}", modules.file(p))
    dep = "".join(f"{unpacked(p)}:{''.join(f' {unpacked(d)}' for d in modules.needs(p))}\n" for p in order)
    cpio.text(f"{base}/modules.dep", dep)
    cpio.file(f"{base}/modules.builtin", modules.directory / "modules.builtin")
    # The larger ones are Dom-M's alone, and a guest's programs are in its memory.
    programs = [p for p in our_programs(args) if p.name not in DOM_M_ALONE]
    for program in programs:
        cpio.file(f"lab/bin/{program.name}", program, 0o755)
    # What is for a debugger is nine tenths of a module, and a guest has it in its memory.
    small = host.run / "guest-modules"
    small.mkdir()
    for module in map(Path, args.guest_modules):
        stripped = small / module.name
        subprocess.run(["strip", "--strip-debug", "-o", str(stripped), str(module)], check=True)
        cpio.file(f"lab/{module.name}", stripped)
    for spec in args.guest_put:
        source, dest = split_put(spec, "/lab")
        cpio.file(dest.lstrip("/"), source)
        programs += [p for p in ([source] if source.is_file() else source.rglob("*")) if p.is_file()]
    for library in sorted({lib for p in programs for lib in libraries(p)}):
        cpio.file(str(library).lstrip("/"), library.resolve(), 0o755)
    cpio.write(path)
    shutil.rmtree(small)


def is_ours(program: str) -> bool:
    """A path of the host's, not one of every system's or of Dom0's; as in scripts/lab."""
    theirs = re.match(r"/(usr|bin|sbin|lib[^/]*|etc|lab|proc|sys|dev)/", program)
    return "/" in program and not theirs and Path(program).exists()


def unpacked(path: str) -> str:
    return path.removesuffix(".xz")


def our_modules(args: argparse.Namespace) -> list[Path]:
    return [p for p in map(Path, args.module) if p.is_file()]


def our_programs(args: argparse.Namespace) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, args.bin):
        if path.is_dir():
            found += [p for p in sorted(path.iterdir()) if p.is_file() and os.access(p, os.X_OK) and p.name != BMC]
        elif path.is_file():
            found.append(path)
    return found


def split_put(spec: str, default: str) -> tuple[Path, str]:
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


def copy_any(source: Path, dest: Path) -> None:
    dest.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, dest, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy(source, dest)
