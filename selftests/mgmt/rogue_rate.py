#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A hostile frontend takes no throughput from others, beyond what it takes by being busy.

Each attack alternates with a control: the same guest is as busy, and does not touch its channel.
Where the host has other work, --icount gives figures that do not depend on it; then a few repeats suffice:

    scripts/lab run --icount --guests pv,pvh --timeout 7200 -- env MGMT_RATE_REPEATS=2 /lab/selftests/mgmt/rogue_rate.py
"""

import json
import os
import statistics
import subprocess

import attacker
import mgmt
from attacker import ATTACKER, CONNECTED, HONEST, front, front_case, nobody, states
from mgmt import NO_UNDELIVERABLE, check

# Of the throughput without the attack.
ENOUGH = 0.8
REPEATS = int(os.environ.get("MGMT_RATE_REPEATS", "5"))


def stream(count):
    """So many messages of 64 bytes from the honest guest to Dom0, all of which arrive: how many per second."""
    sink = subprocess.Popen(
        ["mgmt-test", "--timeout", "300", "sink", "RogueRate", "--count", str(count)], stdout=subprocess.PIPE
    )
    mgmt.must(
        "guest", "-T", "310", HONEST,
        f"mgmt-test --timeout 300 flood --app RogueFlood --to RogueRate@mvm --count {count}", timeout=320,
    )  # fmt: skip
    lines = sink.communicate(timeout=320)[0].decode().splitlines()
    result = json.loads(lines[-1])
    found = {name: result.get(name) for name in ("received", "lost", "late", "damaged")}
    mgmt.equal("the honest guest's messages", {"received": count, "lost": 0, "late": 0, "damaged": 0}, found)
    return result["per_second"]


def stream_during(side, command, count):
    if states() != (CONNECTED, CONNECTED):
        side.fresh(again=1)
    process = side.rogue.start(command, 300)
    try:
        return stream(count)
    finally:
        side.rogue.stop(process)


@front_case(bystander=False, timeout=1800)
def throughput(side):
    """An honest guest keeps 80 % of its throughput under each attack that lasts."""
    side.fresh(again=1)
    loud = nobody(side).encode().hex()
    quiet = nobody(side, flags=NO_UNDELIVERABLE).encode().hex()
    torn = nobody(side, payload=bytes(500), flags=NO_UNDELIVERABLE).encode().hex()
    unwatched = f"/local/domain/{mgmt.domid(ATTACKER)}/data/rogue"
    alone = stream(2000)
    mgmt.note(f"{alone:.0f} messages/s with no attacker")
    for name, control, attack in [
        ("events", "burn 500", "storm 500"),
        ("undeliverables", "burn 500", f"flood 500 1 {loud}"),
        ("messages to nobody", "burn 500", f"flood 500 1 {quiet}"),
        ("a reader that is stuck", "burn 500", f"flood 500 0 {loud}"),
        ("torn records", "burn 500", f"torn 500 {torn}"),
        ("xenstore states", f"xenstore 500 {unwatched}", f"xenstore 500 {front('state')}"),
    ]:
        pairs = [
            tuple(stream_during(side, command, int(alone)) for command in (control, attack)) for _ in range(REPEATS)
        ]
        without, during = (statistics.median(rates) for rates in zip(*pairs))
        mgmt.note(
            f"{name}: {without:.0f} messages/s without, {during:.0f} with: {100 * during / without:.0f} % "
            f"({' '.join(f'{w:.0f}/{d:.0f}' for w, d in pairs)})"
        )
        check(during >= ENOUGH * without, f"{name}: {100 * during / without:.0f} % of the throughput is left")


if __name__ == "__main__":
    attacker.main()
