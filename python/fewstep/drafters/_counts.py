# SPDX-License-Identifier: Apache-2.0
"""Checks of drafters' numbers."""

from __future__ import annotations


def check_counts(drafter: str, **given: tuple[int, int]) -> None:
    """Refuse a number that is not from 1 to what it may be at most; `given` has pairs of both."""
    for name, (value, most) in given.items():
        if not 1 <= value <= most:
            raise ValueError(
                f"fewstep.drafters.{drafter}: '{name}' must be from 1 to {most}, got {value}"
            )
