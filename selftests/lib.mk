# SPDX-License-Identifier: GPL-2.0
#
# What a collection's Makefile includes: the part of the kernel's lib.mk that a
# collection of scripts needs.
COLLECTION ?= $(notdir $(CURDIR))

all clean:

run_tests:
	@../run_kselftest.sh -c $(COLLECTION)

install:
	mkdir -p $(INSTALL_PATH)
	cp $(TEST_PROGS) $(TEST_PROGS_EXTENDED) $(TEST_FILES) $(wildcard config settings) $(INSTALL_PATH)/

emit_tests:
	@for test in $(TEST_PROGS); do echo "$(COLLECTION):$$test"; done

emit_extended:
	@for test in $(TEST_PROGS_EXTENDED); do echo "$(COLLECTION):$$test"; done

.PHONY: all clean run_tests install emit_tests emit_extended
