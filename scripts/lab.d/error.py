# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the launcher says and ends with."""


class LabError(Exception):
    """The lab itself failed, or was asked for nonsense."""
