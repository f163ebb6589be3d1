# SPDX-License-Identifier: MIT OR Apache-2.0
"""Initrds: cpio archives (newc) written without root, device nodes included."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import BinaryIO


class Cpio:
    """Collects files; write() puts them into one newc archive."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, Path | bytes, int, int]] = {}

    def _parents(self, name: str) -> None:
        for parent in list(Path(name).parents)[-2::-1]:
            self._entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b"", 0, 0))

    def directory(self, name: str) -> None:
        self._parents(name)
        self._entries.setdefault(name, (stat.S_IFDIR | 0o755, b"", 0, 0))

    def device(self, name: str, major: int, minor: int) -> None:
        self._parents(name)
        self._entries[name] = (stat.S_IFCHR | 0o600, b"", major, minor)

    def symlink(self, name: str, target: str) -> None:
        self._parents(name)
        self._entries[name] = (stat.S_IFLNK | 0o777, target.encode(), 0, 0)

    def text(self, name: str, text: str, mode: int = 0o644) -> None:
        self._parents(name)
        self._entries[name] = (stat.S_IFREG | mode, text.encode(), 0, 0)

    def file(self, name: str, source: Path, mode: int | None = None) -> None:
        """Add a file, or a directory with all that is in it."""
        if source.is_dir() and not source.is_symlink():
            self.directory(name)
            for child in sorted(source.iterdir()):
                self.file(f"{name}/{child.name}", child)
            return
        if source.is_symlink():
            self.symlink(name, str(source.readlink()))
            return
        self._parents(name)
        bits = mode if mode is not None else stat.S_IMODE(source.stat().st_mode)
        self._entries[name] = (stat.S_IFREG | bits, source, 0, 0)

    def write(self, path: Path) -> None:
        with path.open("wb") as out:
            inode = 1
            for name, (mode, content, major, minor) in self._entries.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                _entry(out, inode, name, mode, data, major, minor)
                inode += 1
            _entry(out, 0, "TRAILER!!!", 0, b"", 0, 0)


def _entry(out: BinaryIO, inode: int, name: str, mode: int, data: bytes, major: int, minor: int) -> None:
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    out.write(header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4))


class Modules:
    """The stock kernel's modules, with what they depend on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._deps: dict[str, list[str]] = {}
        self._by_name: dict[str, str] = {}
        for line in (directory / "modules.dep").read_text().splitlines():
            path, _, deps = line.partition(":")
            self._deps[path] = deps.split()
            self._by_name[module_name(path)] = path

    def closure(self, names: list[str]) -> list[str]:
        """Paths of the modules and of all they need, in the order to load them."""
        order: list[str] = []

        def visit(path: str) -> None:
            for dep in self._deps[path]:
                visit(dep)
            if path not in order:
                order.append(path)

        for name in names:
            path = self._by_name.get(module_name(name))
            if path is not None:  # else it is built in
                visit(path)
        return order

    def needs(self, path: str) -> list[str]:
        """What a module needs, nearest first, as modules.dep has it."""
        return self.closure([path])[-2::-1]

    def file(self, path: str) -> Path:
        return self.directory / path.removesuffix(".xz")


def module_name(path: str) -> str:
    return re.sub(r"\.ko(\.xz)?$", "", Path(path).name).replace("-", "_")


def libraries(binary: Path) -> list[Path]:
    """The shared libraries that a program needs, loader included; none if static."""
    with binary.open("rb") as f:
        if f.read(4) != b"\x7fELF":
            return []
    result = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    found = []
    for line in result.stdout.splitlines():
        match = re.search(r"(/\S+) \(0x", line)
        if match:
            found.append(Path(match.group(1)))
    return found
