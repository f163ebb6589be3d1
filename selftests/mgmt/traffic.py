# SPDX-License-Identifier: GPL-2.0
"""Numbered messages between Dom-M and a guest, both ways, that must all arrive whatever befalls their link."""

import json
import os
import subprocess

import mgmt
from mgmt import File, check, equal, must, note, until

DOM0_OUTPUT = "/tmp/traffic.out"
GUEST_OUTPUT = "/tmp/traffic.out"
STOP = "/tmp/traffic.stop"


def uuid(name):
    return mgmt.xenstore(f"/local/domain/{mgmt.domid(name)}/vm").removeprefix("/vm/")


def state(name):
    """Whether it is connected, as the bridge in Dom0 sees it."""
    with File() as f:
        try:
            link = f.link(mgmt.domid(name))
        except OSError:
            return None
    return link["state"] if link["id"] == mgmt.domid(name) else None


def connected(name):
    return until(lambda: state(name) == 2, 90)


class Traffic:
    """Numbered messages both ways at full rate, until the end: all must arrive, once, in order."""

    def __init__(self, name):
        self.name = name
        if os.path.exists(STOP):
            os.remove(STOP)
        patience = f"--timeout {900 * mgmt.PATIENCE} duplex --wait {60 * mgmt.PATIENCE}"
        command = f"mgmt-test {patience} --app Traffic --until {STOP} --to Traffic@"
        there = f"rm -f {STOP}; ({command}mvm; echo $? >{GUEST_OUTPUT}.status) >{GUEST_OUTPUT} 2>&1 </dev/null &"
        must("guest", "-T", "60", name, there, timeout=90)
        with open(DOM0_OUTPUT, "w") as output:
            here = f"exec {command}uuid:{uuid(name)}"
            self.here = subprocess.Popen(["sh", "-c", here], stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def __enter__(self):
        self.goes_on("it does not begin")
        return self

    def counts(self):
        with File() as f:
            link = f.link(mgmt.domid(self.name))
        return link["rx_messages"], link["tx_messages"]

    def goes_on(self, text):
        """500 more messages each way."""
        rx, tx = self.counts()
        both = until(lambda: all(now >= old + 500 for now, old in zip(self.counts(), (rx, tx))), 90)
        check(both, f"{text}: from {(rx, tx)} to {self.counts()}; {self.output()}")

    def output(self):
        with open(DOM0_OUTPUT) as f:
            return f.read().strip()

    def __exit__(self, kind, *_):
        with open(STOP, "w"):
            pass
        mgmt.in_guest(self.name, f"touch {STOP}")
        if kind:
            self.here.kill()
            return
        finished = lambda: mgmt.in_guest(self.name, f"test -e {GUEST_OUTPUT}.status")[0] == 0
        check(until(finished, 120), f"{self.name}: no end")
        try:
            self.here.wait(60)
        except subprocess.TimeoutExpired:
            self.here.kill()
        there = mgmt.in_guest(self.name, f"cat {GUEST_OUTPUT}; rm -f {GUEST_OUTPUT}.status")[1]
        reports = [self.report("Dom0", self.output()), self.report(self.name, there)]
        if all(reports):
            sent, got = ([r[key] for r in reports] for key in ("sent", "received"))
            equal("what was sent, and what the other side received", sent, got[::-1])
            pauses = " and ".join(f"{r['longest_gap_ms']} ms" for r in reports)
            note(f"{sum(got)} messages; the longest pauses, in Dom0 and in {self.name}: {pauses}")

    def report(self, side, output):
        lines = output.strip().splitlines()
        try:
            report = json.loads(lines[-1])
        except (IndexError, json.JSONDecodeError):
            mgmt.fail(f"{side}: no report: {output}")
            return None
        check(report.get("ok"), f"{side}: {report}")
        return report if "longest_gap_ms" in report else None
