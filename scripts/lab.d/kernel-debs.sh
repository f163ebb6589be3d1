#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Download the kernel's packages; a hook of mmdebstrap's, see image.sh.
#
#   kernel-debs.sh RELEASE DIR
set -eu

release=$1
dir=$2
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir -p "$dir"
cd "$dir"
debs=$(apt-cache depends --recurse --important --no-pre-depends "linux-image-$release" |
	grep -xF -e "linux-image-$release" -e "linux-binary-$release" -e "linux-modules-$release" \
		-e "linux-base-$release" |
	sort -u)
# shellcheck disable=SC2086 # a list
apt-get -o APT::Sandbox::User=root download $debs
