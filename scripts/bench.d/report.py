#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the rounds of a benchmark come to: a table, summary.json, and a verdict."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

OURS, RIVAL = "m-channel", "libvchan"
NAMES = {
    "m-channel": "M-channel",
    "m-channel-each": "M-channel, without bundles",
    "libvchan": "libvchan",
    "tcp": "TCP",
    "event": "bare event channel",
    "library": "M-channel, Rust library",
}
# Column: what it is, unit, divisor, and whether less is better.
METRICS = {
    "trip_p50_ns": ("round trip, median", "µs", 1000, True),
    "trip_p99_ns": ("round trip, p99", "µs", 1000, True),
    "trip_min_ns": ("round trip, least", "µs", 1000, True),
    "from_guest_per_s": ("stream from the guest", "1000/s", 1000, False),
    "to_guest_per_s": ("stream to the guest", "1000/s", 1000, False),
}
# What the verdict is about.
JUDGED = ("trip_p50_ns", "from_guest_per_s", "to_guest_per_s")

Rounds = dict[str, dict[str, dict[str, list[float]]]]  # guest, metric, contender: one for each round


def read(path: Path) -> Rounds:
    rounds: Rounds = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    with path.open() as lines:
        for row in csv.DictReader(lines):
            for metric in METRICS:
                if row[metric]:
                    rounds[row["guest"]][metric][row["contender"]].append(float(row[metric]))
    return rounds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values), "rounds": len(values)}


def ratio(ours: list[float], others: list[float]) -> dict[str, float]:
    """Of the two in the same round: what drifts, drifts in both."""
    return spread([a / b for a, b in zip(ours, others, strict=True)])


def summarize(rounds: Rounds) -> dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]:
    return {
        guest: {
            metric: {
                contender: {
                    "value": spread(values),
                    "m_channel_to_it": ratio(contenders[OURS], values),
                }
                for contender, values in contenders.items()
            }
            for metric, contenders in metrics.items()
        }
        for guest, metrics in rounds.items()
    }


def show(stats: dict[str, float], form: str, divisor: float = 1) -> str:
    median_, least, most = (format(stats[k] / divisor, form) for k in ("median", "least", "most"))
    return f"{median_} ({least} to {most})"


def print_table(summary: dict) -> None:
    for guest, metrics in summary.items():
        print(f"\n{guest}: median of the rounds (least to most)\n")
        print("| | | | M-channel / it |\n|---|---|---|---|")
        for metric, contenders in metrics.items():
            title, unit, divisor, _ = METRICS[metric]
            for contender, stats in contenders.items():
                value = show(stats["value"], ".1f", divisor)
                against = "" if contender == OURS else show(stats["m_channel_to_it"], ".3g")
                print(f"| {title}, {unit} | {NAMES[contender]} | {value} | {against} |")


def verdict(summary: dict) -> list[str]:
    """In what the M-channel is worse than its rival."""
    worse = []
    for guest, metrics in summary.items():
        for metric in JUDGED:
            title, _, _, less_is_better = METRICS[metric]
            against = metrics[metric][RIVAL]["m_channel_to_it"]["median"]
            if against > 1 if less_is_better else against < 1:
                worse.append(f"{guest}: {title}: {against:.3g} of {NAMES[RIVAL]}'s")
    return worse


def main() -> int:
    out = Path(sys.argv[1])
    summary = summarize(read(out / "rounds.csv"))
    worse = verdict(summary)
    (out / "summary.json").write_text(json.dumps({"worse": worse, "guests": summary}, indent=1) + "\n")
    print_table(summary)
    print(f"\nthe rounds: {out}/rounds.csv, the summary: {out}/summary.json")
    if worse or not summary:
        print(f"bench: FAIL: slower than libvchan ({'; '.join(worse) or 'nothing was measured'})")
        return 1
    print("bench: PASS: round trips and streams are no worse than libvchan's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
