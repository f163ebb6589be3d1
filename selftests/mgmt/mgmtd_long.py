#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""mgmtd killed at fifty random moments."""

import os

os.environ["MGMTD_KILLS"] = "50"

import mgmt  # noqa: E402
import mgmtd  # noqa: E402

if __name__ == "__main__":
    mgmt.CASES[:] = [c for c in mgmt.CASES if c[0] is mgmtd.killed_under_load]
    mgmt.ready()
    mgmt.main()
