#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Connecting and disconnecting over and over leaves nothing behind: no grant, no
# mapping, no event channel, no memory, no node.
#
# MGMT_CYCLES: how many in all (200; cycles_long.sh does a thousand).
#
# What Xen and xenstore count must be exactly as before. Memory has noise, so
# half an object, or half a page, per cycle is allowed: one of either that leaks
# in each cycle is twice that. With few cycles, the noise of what ran before is
# more than such pages. Free objects of the slab that a CPU allocates from count as
# in use, so what was least of several looks is taken.

# shellcheck source=selftests/mgmt/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_lab 2

CYCLES=${MGMT_CYCLES:-200}
PER_GUEST=$((CYCLES * 9 / 20))
BY_BACK=$((CYCLES - 2 * PER_GUEST))
WORK=$(mktemp -d) || exit 1
trap 'rm -rf "$WORK"' EXIT

# How many cycles a domain has seen.
cycles_of() {
	case $1 in
	dom0) echo "$CYCLES" ;;
	"$G1") echo $((PER_GUEST + BY_BACK)) ;;
	*) echo "$PER_GUEST" ;;
	esac
}

# cycle DRIVER DEVICE COUNT: a shell's program that unbinds and binds. It forks
# nothing, which is slow in an emulated machine: reading from a FIFO is the pause.
cycle() {
	cat <<-EOF
		cd /sys/bus/$1 || exit
		fifo=/tmp/cycle.\$\$
		mkfifo \$fifo && exec 5<>\$fifo && rm \$fifo || exit
		i=0
		while [ \$i -lt $3 ]; do
			i=\$((i + 1))
			echo $2 >unbind || { echo "unbind \$i fails"; exit 1; }
			echo $2 >bind || { echo "bind \$i fails"; exit 1; }
			n=0
			while read -r s <$2/state && [ "\$s" != Connected ]; do
				n=\$((n + 1))
				[ \$n -lt 3000 ] || { echo "cycle \$i: \$s, not Connected"; exit 1; }
				read -r -t 0.01 x <&5
			done
		done
		echo "\$i cycles"
	EOF
}

front_cycles() {
	guest -T $((700 * PATIENCE)) "$1" "$(cycle xen/drivers/mgmtfront mgmt-0 "$2")"
}

back_cycles() {
	timeout $((700 * PATIENCE)) bash -c "$(cycle xen-backend/drivers/mgmtback "mgmt-${DOMID[$1]}-0" "$2")"
}

# Objects of each slab cache, the copies of kmalloc for one size together; KiB in use.
# shellcheck disable=SC2016
MEMORY='
	sync
	echo 3 >/proc/sys/vm/drop_caches
	sleep 2
	echo 3 >/proc/sys/vm/drop_caches
	for s in /sys/kernel/slab/*/shrink; do [ -L "${s%/*}" ] || echo 1 >"$s"; done 2>/dev/null
	awk "NR > 2 { name = \$1; if (name ~ /^kmalloc/) sub(/^.*-/, \"kmalloc-\", name); n[name] += \$2 }
		END { for (name in n) print \"slab:\" name, n[name] }" /proc/slabinfo
	awk "/^MemTotal:/ { t = \$2 } /^MemFree:/ { f = \$2 } END { print \"memory\", t - f }" /proc/meminfo
'

# What the process caches of a moment hold is nobody's leak. The kernel frees areas
# of unmapped memory (vmap_area) when it likes; those in use are counted exactly.
NOISE='^slab:(vmap_area|dentry|.*inode.*|radix_tree_node|vm_area_struct|vma_.*|maple_node|anon_vma.*|filp|file_.*|pid.*|task_.*|cred.*|signal_cache|sighand_cache|files_cache|mm_struct|fs_cache|buffer_head|bio.*|skbuff.*|names_cache|lsm_.*|pool_workqueue|proc_dir_.*|shmem_.*|seq_file|numa_policy|nsproxy|eventpoll.*|sock_.*|UNIX.*|request_.*|xfs_.*|ext4.*|squashfs.*|ovl_.*|trace_event.*|percpu_.*|perf_.*|ep_.*|khugepaged.*|uts_.*|ip_.*|TCP.*|UDP.*|RAW.*|fib.*|tcp_.*|mnt_cache|delayed_node|sgpool.*|posix_.*|jbd2.*) '

# memory DOMAIN LOOKS: the least of each in so many looks.
memory() {
	local i
	for ((i = 0; i < $2; i++)); do
		on "$1" "$MEMORY"
	done | grep -vE "$NOISE" | awk '
		!($1 in least) || $2 < least[$1] { least[$1] = $2 }
		END { for (name in least) print name, least[name] }' | sort
}

count() {
	grep -c "$@" || :
}

# counted FILE: everything that must be exact.
counted() {
	local name
	{
		echo "mappings of rings in Dom0: $(count xenbus_map_ring /proc/vmallocinfo)"
		echo "interrupts of mgmtback: $(count mgmtback /proc/interrupts)"
		echo "event channels of Dom0: $(lsevtchn 0 | wc -l)"
		for name in "$G1" "$G2"; do
			echo "event channels of $name: $(lsevtchn "${DOMID[$name]}" | wc -l)"
			echo "interrupts of mgmtfront in $name: $(on "$name" 'grep -c mgmtfront /proc/interrupts')"
		done
		grants | sed 's/^/grants of domain /'
		xenstore-ls -f | sed 's/ = .*//; s/^/node /'
	} >"$1"
}

warm_up() {
	front_cycles "$1" 20
}

test_start() {
	local name
	ready
	for name in "$G1" "$G2"; do
		check "first cycles of $name" warm_up "$name"
		check "first cycles by Dom0" back_cycles "$name" 5
	done
	ready
	counted "$WORK/counted.before"
	for name in dom0 "$G1" "$G2"; do
		memory "$name" 3 >"$WORK/memory.$name.before"
	done
	check "grants were counted" grep -q "^grants of domain ${DOMID[$G1]} [1-9]" "$WORK/counted.before"
	equal "mappings of rings" "mappings of rings in Dom0: 4" "$(grep mappings "$WORK/counted.before")"
	for name in dom0 "$G1" "$G2"; do
		check "memory of $name" grep -q '^slab:kmalloc-64 [1-9]' "$WORK/memory.$name.before"
	done
}

test_cycles_by_the_first_guest() {
	equal "first guest" "$PER_GUEST cycles" "$(front_cycles "$G1" "$PER_GUEST")"
}

test_cycles_by_the_second_guest() {
	equal "second guest" "$PER_GUEST cycles" "$(front_cycles "$G2" "$PER_GUEST")"
}

test_cycles_by_Dom0() {
	equal "Dom0" "$BY_BACK cycles" "$(back_cycles "$G1" "$BY_BACK")"
}

test_messages_pass_afterwards() {
	check "connected" wait_connected "$G1"
	check "connected" wait_connected "$G2"
	check "$G1" round_trip "$G1"
	check "$G2" round_trip "$G2"
}

test_grants_mappings_event_channels_and_nodes_are_as_before() {
	local wrong
	[[ -s $WORK/counted.before ]] || die "no count from before"
	counted "$WORK/counted.after"
	wrong=$(diff "$WORK/counted.before" "$WORK/counted.after") || fail "what differs (< before, > after):"
	printf '%s' "${wrong:+$wrong
}"
}

# growth DOMAIN: no cache, nor the memory, has grown by half a unit for each cycle.
# What has is looked at again after as many more cycles: a leak grows on, what the
# kernel keeps once does not.
growth() {
	grown "$1" before after 2 "$(cycles_of "$1")" || grown "$1" before after 8 "$(cycles_of "$1")" || {
		echo "once more"
		[[ $(again "$1") == "$PER_GUEST cycles" ]] && grown "$1" after later 8 "$PER_GUEST"
	}
}

# again DOMAIN
again() {
	case $1 in
	dom0) front_cycles "$G1" "$PER_GUEST" ;;
	*) front_cycles "$1" "$PER_GUEST" ;;
	esac
}

# grown DOMAIN FROM TO LOOKS CYCLES: looks at what is there now, TO, and compares.
grown() {
	memory "$1" "$4" >"$WORK/memory.$1.$3"
	join "$WORK/memory.$1.$2" "$WORK/memory.$1.$3" | awk -v cycles="$5" -v noise=$((CYCLES < 1000 ? 4096 : 0)) '
		{ by = $3 - $2; limit = ($1 == "memory") ? cycles * 2 + noise : cycles / 2
		  if (by > limit) { print "grown:", $1, "from", $2, "to", $3, "in", cycles, "cycles"; bad = 1 }
		  if ($1 == "memory") mem = by; else if (by > most) { most = by; which = $1 } }
		END { printf "memory grew by %d KiB, %s by %d objects, in %d cycles\n", mem, which, most, cycles; exit bad }'
}

test_memory_of_Dom0_has_not_grown() {
	growth dom0 || fail "memory of Dom0"
}

test_memory_of_the_guests_has_not_grown() {
	growth "$G1" || fail "memory of $G1"
	growth "$G2" || fail "memory of $G2"
}

ktap_main "$@"
