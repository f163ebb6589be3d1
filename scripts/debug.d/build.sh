#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Make a debug kernel. Runs in the build root, in a copy of the stock tree at
# /kernel.
#
#   build.sh NAME DEST      NAME.config says what it is to find
#
# DEST gets vmlinux, its release, and modules/ with what depmod makes of a kernel
# that has everything built in.
#
# It is built by clang: with gcc the kernel allows no KASAN together with Rust.
set -euo pipefail

name=$1
dest=$2
here=$(dirname "$(readlink -f "$0")")

cd /kernel
[[ ! -e $here/$name.patch ]] || git apply "$here/$name.patch"
cat "$here/lab.config" "$here/$name.config" >debug.config
echo "CONFIG_LOCALVERSION=\"-$name\"" >>debug.config
make LLVM=1 KCONFIG_ALLCONFIG=debug.config allnoconfig
# What depends on something that is missing is left out without a word.
while read -r line; do
	grep -qxF "$line" .config || { echo "the configuration does not take $line"; exit 1; }
done < <(grep -h '^CONFIG_.*=[^n]' debug.config)

# Of Debian's kernel, not of this one.
rm -f Module.symvers
make LLVM=1 -j"$(nproc)" vmlinux modules

release=$(cat include/config/kernel.release)
modules=$dest/root/lib/modules/$release
mkdir -p "$modules"
cp modules.builtin modules.builtin.modinfo modules.order "$modules/"
depmod -b "$dest/root" "$release"
mv "$modules" "$dest/modules"
rm -r "$dest/root"
echo "$release" >"$dest/release"
strip --strip-debug -o "$dest/vmlinux" vmlinux
