# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The host needs make, bash and coreutils; everything else happens in a build
# root that the scripts make themselves (scripts/setup --help).

SHELL := /bin/bash

.PHONY: all module userspace man host-test test test-long test-debug fuzz demo demo-two-hosts bench lint clippy \
	fmt clean help

all: module userspace

## module: build/module/mgmt.ko, for the newest kernel of Debian's backports that is supported
module:
	@scripts/kmake

## userspace: daemon, agent and tools, in build/target/x86_64-unknown-linux-gnu/release
userspace:
	@if [ -e userspace/Cargo.toml ]; then scripts/cargo build --release && scripts/library; fi

## man: manual pages and shell completions of mgmtctl, in build/man and build/completions
man: userspace
	@scripts/man

## test: everything: host tests, then the selftests in the lab; ends with the sums
test:
	@scripts/test

## test-long: test, and the selftests that take long (an hour and more)
test-long:
	@scripts/test long

## test-debug: the core selftests on a kernel with KASAN, lockdep and kmemleak
test-debug:
	@scripts/test debug

## host-test: the tests that need no kernel and no Xen
host-test:
	@scripts/test host

## fuzz: a minute of fuzzing for each target of fuzz/ (scripts/fuzz --help)
fuzz:
	@scripts/fuzz

## demo: the lab, two guests under load, and a broker that keeps their promises
demo: module userspace
	@scripts/demo

## demo-two-hosts: two Xen hosts, and what holds between them: kills, a partition, intruders
demo-two-hosts: module userspace
	@scripts/lab two-hosts

## bench: the M-channel against libvchan, TCP and a bare event channel, in the lab
bench: module userspace
	@scripts/bench

## lint: formatting, clippy and shellcheck; warnings are errors
lint:
	@scripts/lint

clippy: lint

## fmt: formats the Rust code
fmt:
	@scripts/lint --fix

## clean: removes what was built; the cache stays (scripts/setup clean removes that)
clean:
	rm -rf build

help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done
