#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Make what the lab boots, from Debian's archive.  Runs in the build root.
#
#   image.sh RELEASE DEST     RELEASE: the kernel's, as in 7.3.4+deb13-amd64
#
# DEST gets dom0.sqfs (Dom0's root, the stock modules included), xen (the
# hypervisor), vmlinux (the stock kernel, unpacked once here instead of by every
# domain that boots), and modules/ (those that initrds are made from).
set -eu

release=$1
dest=$2
here=$(dirname "$(readlink -f "$0")")
work=$dest/work
mirror=${LAB_MIRROR:-http://deb.debian.org/debian}
packages=$("$here/packages.sh" | paste -sd,)

rm -rf "$work"
mkdir -p "$work"

# The kernel's packages are unpacked, not installed: no initramfs, no boot loader.
# Newer ones are split (linux-binary, linux-modules); take all of this release.
mmdebstrap --variant=minbase --components=main --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook="$here/kernel-debs.sh $release $work/debs" \
	trixie "$work/root" \
	"deb $mirror trixie main" "deb $mirror trixie-backports main"
for deb in "$work"/debs/*.deb; do
	dpkg-deb -x "$deb" "$work/root"
done

# Hardware that the lab's machine does not have.
modules=$work/root/usr/lib/modules/$release
[ -d "$modules" ] || modules=$work/root/lib/modules/$release
for dir in sound drivers/gpu drivers/media drivers/net/wireless drivers/infiniband \
	drivers/staging drivers/iio drivers/usb drivers/scsi drivers/net/ethernet \
	drivers/hid drivers/input drivers/mtd drivers/net/can drivers/bluetooth; do
	rm -rf "${modules:?}/kernel/$dir"
done
find "$modules" -name '*.ko.xz' -print0 | xargs -0 -r -P 2 -n 200 xz -d
depmod -b "$work/root" "$release"

gzip -dc "$work/root/boot/xen-4.20-amd64.gz" >"$dest/xen"
kernel=$modules/vmlinuz
[ -f "$kernel" ] || kernel=$work/root/boot/vmlinuz-$release # before 7.3
"$here/unpack-kernel.py" "$kernel" "$dest/vmlinux"

mkdir -p "$dest/modules"
for f in modules.order modules.builtin modules.builtin.modinfo; do
	[ ! -f "$modules/$f" ] || cp "$modules/$f" "$dest/modules/"
done
cp "$modules/modules.dep" "$dest/modules/"
# Few enough to keep all of these; an initrd takes what it needs.
for dir in drivers/xen drivers/block drivers/net fs net lib drivers/char arch crypto; do
	[ -d "$modules/kernel/$dir" ] || continue
	mkdir -p "$dest/modules/kernel/$dir"
	cp -r "$modules/kernel/$dir/." "$dest/modules/kernel/$dir/"
done
cp "$work/root/usr/bin/busybox" "$dest/busybox"

rm -rf "$kernel" "$work"/root/boot "$work"/root/usr/lib/xen-*/boot "$work"/root/var/lib/apt/lists/* \
	"$work"/root/var/cache/apt/* "$work"/root/usr/share/i18n "$work"/root/usr/share/perl
mkdir -p "$work/root/lab" "$work/root/run" "$work/root/var/lib/xen" "$work/root/var/log/xen"
mksquashfs "$work/root" "$dest/dom0.sqfs" -noappend -no-progress -quiet \
	-comp "${LAB_COMP:-lz4}" -b 128K
rm -rf "$work"
