#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""fuzz.py, for two minutes in each place."""

import os

os.environ.setdefault("MGMT_FUZZ_SECONDS", "120")

import fuzz  # noqa: E402, F401
import mgmt  # noqa: E402

if __name__ == "__main__":
    mgmt.main()
