#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Guests that are paused for a minute, and resumed, while numbered messages run both ways."""

import time

import mgmt
from mgmt import case, guests, must
from traffic import Traffic

SECONDS = 60


@case(timeout=600)
def paused():
    """Guests are paused for a minute under traffic: all arrives, once and in order."""
    for name in guests()[:2]:
        with Traffic(name) as traffic:
            must("xl", "pause", name)
            try:
                time.sleep(SECONDS)
            finally:
                must("xl", "unpause", name)
            traffic.goes_on("after the pause")


if __name__ == "__main__":
    mgmt.ready()
    mgmt.main()
