#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Some of the attacks of rogue_front.py, rogue_back.py and rogue_large.py.

    rogue.py [CASE...]
"""

import attacker
import mgmt
import rogue_front
import rogue_large
from attacker import back_case, front_case
from attacks import closing_attacks, harmless_notes, header_attacks, note_attacks, ring_attacks

SOME = (
    rogue_front.forged_sources, rogue_front.without_effect, rogue_front.xenstore_storms,
    rogue_large.front_same_page,
)  # fmt: skip
mgmt.CASES[:] = [case for case in mgmt.CASES if case[0] in SOME]


def some(side):
    """A few of the attacks that end a channel, of all sorts."""
    return header_attacks(side)[::8] + ring_attacks(side)[::5] + note_attacks(side)[::6]


@front_case
def a_guest_breaks_the_rules(side):
    """A guest's headers, rings and notes that may not be so close its channel, with one complaint."""
    closing_attacks(side, some(side))
    harmless_notes(side)


@back_case
def dom0_breaks_the_rules(side):
    """The same of the management VM, against a guest."""
    closing_attacks(side, some(side))


if __name__ == "__main__":
    attacker.main()
