# shellcheck shell=bash
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# What all scripts share: messages, the cache, and where the build root and the
# kernel tree are. Source it; it only defines things.
#
#   source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

set -euo pipefail
shopt -s inherit_errexit

# An ordinary user's may lack these; chroot is there.
PATH=$PATH:/usr/sbin:/sbin

# ---------------------------------------------------------------------------
# What everything is built with and for. The cache is keyed by these.

# The newest of these series that backports offers is taken; only series that
# the module has been built for belong here.
SUPPORTED_KERNELS=(7.3)

SUITE=trixie
ROOT_RECIPE=1
KERNEL_RECIPE=1

ROOT_PACKAGES=(
	# the module, and the kernel's Rust metadata
	make gcc-14 gcc libc6-dev flex bison bc kmod cpio xz-utils zstd perl python3
	rsync pahole libelf-dev libssl-dev
	rustc cargo rust-src rustfmt rust-clippy bindgen clang llvm lld libclang-dev
	# userspace
	git pkg-config libxen-dev ca-certificates
	# the lab: images and the emulator
	mmdebstrap debian-archive-keyring qemu-system-x86 squashfs-tools
	busybox-static socat ipmitool
)

# ---------------------------------------------------------------------------
# Messages

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

: "${MGMT_STARTED:=$(date +%s)}"
export MGMT_STARTED

# note TEXT…: a line of progress, with the seconds since the first script began.
note() {
	printf '[%4ds] %s\n' "$(($(date +%s) - MGMT_STARTED))" "$*" >&2
}

# die TEXT…: says why, and ends the script.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# help_of FILE: prints the comment at the top of FILE (after the SPDX line) as
# its help text.
help_of() {
	sed -n '4,/^$/s/^# \{0,1\}//p' "$1"
}

# run_logged NAME CMD…: runs CMD with its output in the cache's log/NAME.log;
# shows the end of it where CMD fails.
run_logged() {
	local name=$1 log status=0
	shift
	log=$(cache_dir)/log/$name.log
	mkdir -p "${log%/*}"
	"$@" >"$log" 2>&1 </dev/null || status=$?
	((status == 0)) && return
	((status > 128)) && exit "$status"
	{
		printf '\n--- the end of %s ---\n' "$log"
		tail -n 40 "$log"
		printf -- '---\n'
	} >&2
	die "$name failed with status $status; all of its output is in $log"
}

# ---------------------------------------------------------------------------
# The cache: one directory, shared by clones, safe to delete at any time.
#
# An entry is a directory NAME-HASH, where HASH is of all that it was made
# from. It is built under another name and renamed when complete, so that an
# entry that exists is whole; a lock per entry keeps two clones from building
# the same one, and whoever holds it may remove what an interrupted run left.

cache_dir() {
	printf '%s\n' "${MGMT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mgmt-xen}"
}

# cache_path NAME KEY: where the entry is, or would be.
cache_path() {
	local hash
	hash=$(printf '%s' "$2" | sha256sum)
	printf '%s/%s-%s\n' "$(cache_dir)" "$1" "${hash:0:16}"
}

# cache_entry NAME KEY BUILDER: prints the path of the entry; where it is
# missing, runs the function BUILDER with the path of an empty directory to
# fill. BUILDER must end with `die`, or a status, where it fails: `set -e` is not
# in force there. What it leaves is removed by the next run.
cache_entry() {
	local entry partial fd
	entry=$(cache_path "$1" "$2")
	if [[ -e $entry/key ]]; then
		printf '%s\n' "$entry"
		return
	fi

	mkdir -p "$(cache_dir)/lock"
	exec {fd}>"$(cache_dir)/lock/${entry##*/}"
	if ! flock --nonblock "$fd"; then
		note "another run is making $1: waiting for it"
		flock "$fd"
	fi
	if [[ ! -e $entry/key ]]; then
		# Nobody else is building: whatever is there was interrupted.
		for partial in "$entry" "$entry".partial.*; do
			[[ -e $partial ]] || continue
			note "removing what an interrupted run left of $1"
			remove_tree "$partial"
		done
		partial=$entry.partial.$BASHPID
		mkdir -p "$partial"
		# In no subshell: that would go on after the script was killed.
		"$3" "$partial" >&2 || die "making $1 failed"
		printf '%s\n' "$2" >"$partial/key"
		mv -T "$partial" "$entry"
	fi
	exec {fd}>&-
	printf '%s\n' "$entry"
}

# remove_tree PATH…: removes trees of the cache, also those that belong to
# subordinate users; never crosses into another file system.
remove_tree() {
	local path
	for path; do
		[[ -e $path ]] || continue
		if ((EUID)); then
			contained rm -rf --one-file-system "$path"
		else
			rm -rf --one-file-system "$path"
		fi
	done
}

# ---------------------------------------------------------------------------
# Namespaces

# contain CMD…: sets `contain` to a command that runs CMD as root of mount and
# PID namespaces of its own; for an ordinary user, of a user namespace too.
# Nothing of it outlives that command: its SIGTERM is handed on, its death is
# the death of all of them.
contain() {
	local how=(--mount --pid --fork --kill-child=KILL)
	if ((EUID)); then
		command -v newuidmap >/dev/null ||
			die "as an ordinary user this needs newuidmap: apt-get install uidmap (or run it as root)"
		grep -q "^$(id -un):" /etc/subuid ||
			die "as an ordinary user this needs subordinate ids: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
		how+=(--map-root-user --map-auto)
	fi
	# A /proc of the new namespace, where the host allows one.
	# shellcheck disable=SC2016 # for the inner shell
	contain=(
		"$TOP/scripts/supervise" --inner setpriv --pdeathsig KILL unshare "${how[@]}" --
		sh -c 'mount -t proc proc /proc 2>/dev/null; exec "$@"' sh
		"$TOP/scripts/supervise" "$@"
	)
}

# contained CMD…: runs CMD so; it ends when this script does.
contained() {
	local contain
	contain "$@"
	setpriv --pdeathsig KILL "${contain[@]}"
}

# ---------------------------------------------------------------------------
# The build root and the kernel tree

# Root in a user namespace and real root own different files.
root_key() {
	printf 'recipe %s, %s, %s: %s\n' "$ROOT_RECIPE" "$SUITE" \
		"$( ((EUID)) && echo user || echo root)" "${ROOT_PACKAGES[*]}"
}

# root_entry: the cache entry of the build root. Inside the root it is known.
root_entry() {
	if [[ ${MGMT_IN_ROOT-} ]]; then
		printf '%s\n' "$MGMT_IN_ROOT"
	else
		cache_path root "$(root_key)"
	fi
}

# root_dir: the build root's own /.
root_dir() {
	printf '%s/rootfs\n' "$(root_entry)"
}

kernel_supported() {
	local series
	for series in "${SUPPORTED_KERNELS[@]}"; do
		[[ $1 == "$series".* ]] && return
	done
	return 1
}

# kernel_release: the release that is built for, such as 7.3.4+deb13-amd64:
# MGMT_KERNEL, or the one that `setup` found. Fails before that.
kernel_release() {
	local release=${MGMT_KERNEL-}
	if [[ -z $release ]]; then
		release=$(cat "$(root_entry)/kernel" 2>/dev/null) && kernel_supported "$release" || return 1
	fi
	printf '%s\n' "$release"
}

# kernel_version: the version of Debian's packages of that release.
kernel_version() {
	cat "$(root_entry)/versions/$(kernel_release)" 2>/dev/null
}

# stock_key: of the tree that matches Debian's kernel.
stock_key() {
	printf 'recipe %s, %s %s, in %s\n' "$KERNEL_RECIPE" "$(kernel_release)" \
		"$(kernel_version)" "$(basename "$(root_entry)")"
}

# kernel_key: of the kernel that is built for: Debian's, or with MGMT_DEBUG a
# debug kernel of the same source (scripts/debug.d).
kernel_key() {
	if [[ -z ${MGMT_DEBUG-} ]]; then
		stock_key
		return
	fi
	local sources=("$TOP/scripts/debug.d/"{build.sh,lab.config,"$MGMT_DEBUG".*})
	printf '%s of %s, %s\n' "$MGMT_DEBUG" "$(cat "${sources[@]}" | sha256sum)" "$(stock_key)"
}

# kernel_entry: its cache entry. The tree is in linux/, prepared for modules; a
# debug kernel is beside it.
kernel_entry() {
	local key
	key=$(kernel_key) || return
	cache_path "kernel${MGMT_DEBUG:+-$MGMT_DEBUG}" "$key"
}

# kernel_make_args DIR: what make needs to know to work in the kernel tree DIR,
# mounted at /kernel: the compiler that built it, and for Debian's its name.
kernel_make_args() {
	local cc release
	if [[ ${MGMT_DEBUG-} ]]; then
		printf -- '-C /kernel LLVM=1 -j%s' "$(nproc)"
		return
	fi
	cc=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\) .*/\1/p' "$1/.config")
	release=$(kernel_release)
	printf -- '-C /kernel CC=%s HOSTCC=%s LOCALVERSION=%s -j%s' "$cc" "$cc" \
		"${release#"${release%%[+]*}"}" "$(nproc)"
}
