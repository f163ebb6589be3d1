#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Unpack the ELF kernel out of a bzImage: unpack-kernel.py VMLINUZ VMLINUX."""

import struct
import subprocess
import sys
from pathlib import Path

UNPACKERS = {
    b"\x28\xb5\x2f\xfd": ["zstd", "-dcq"],
    b"\xfd7zXZ\x00": ["xz", "-dcq"],
    b"\x1f\x8b": ["gzip", "-dcq"],
}


def main() -> None:
    image = Path(sys.argv[1]).read_bytes()
    if image[0x202:0x206] != b"HdrS":
        sys.exit(f"{sys.argv[1]}: not a bzImage")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]  # the last word is the unpacked size
    for magic, command in UNPACKERS.items():
        if payload.startswith(magic):
            kernel = subprocess.run(command, input=payload, stdout=subprocess.PIPE, check=True).stdout
            break
    else:
        sys.exit(f"{sys.argv[1]}: unknown compression {payload[:6]!r}")
    if kernel[:4] != b"\x7fELF":
        sys.exit(f"{sys.argv[1]}: payload is no ELF file")
    Path(sys.argv[2]).write_bytes(kernel)


if __name__ == "__main__":
    main()
