#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The hardware M-channel, what takes long: many requests, and a reset of the BMC."""

import mgmt

import ipmi_bridge as short
from ipmi_bridge import ANSWERED, COLD_RESET, RESETTING, SELF_TEST, Asker, answers
from mgmt import case, equal

mgmt.CASES.clear()


@case
def ready():
    """The modules are loaded, the guests are connected"""
    mgmt.ready()


def long_case(function):
    short.hw_case(function)
    run, _ = mgmt.CASES.pop()
    return case(run, timeout=1800)


@long_case
def many_at_once():
    """10,000 requests of four clients at once have the right replies"""
    short.matched(10000)


@long_case
def reset():
    """After a reset by the system, requests are refused at once while Linux leaves the BMC alone; then answered"""
    with Asker("Asker") as asker:
        answers(asker)
        equal("Cold Reset", (ANSWERED, 0, b""), asker.ask("IPMI.Admin", COLD_RESET))
        equal("after the reset", (RESETTING, 0, b""), asker.ask("IPMI", SELF_TEST))
        answers(asker, 90)
    mgmt.must("rmmod", "mgmt_ipmi")


if __name__ == "__main__":
    mgmt.main(need_guests=1)
