# SPDX-License-Identifier: Apache-2.0
"""What a call of the target takes, by its rows."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

_RECENT = 8  # calls of one size that count
_FEW = 3  # of a size after which the curve is drawn every so many calls
_STALE = 400  # calls after which a size is forgotten


class CallCost:
    """Seconds of a call by its rows, by the better ones of late of each size.

    Without those of drafting: calls with more rows are those that were drafted for, and what a row
    costs would be too much by it. Between sizes that were measured the curve is straight: what a
    few rows cost says little of many, where products take the time and no longer memory.

    A machine that others use makes some calls many times as long: a mean would follow those.
    """

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}
        self._last: dict[int, int] = {}
        self._calls = 0
        self._curve: list[float] = []  # of a few calls ago

    def add(self, rows: int, seconds: float) -> None:
        """Take a measurement."""
        self._calls += 1
        recent = self._recent.get(rows)
        if recent is None:
            recent = self._recent[rows] = deque(maxlen=_RECENT)
        if self._calls % _RECENT == 0 or len(recent) < _FEW:
            self._curve = []
        recent.append(seconds)
        self._last[rows] = self._calls
        if self._calls % _STALE == 0:
            for size in [n for n, last in self._last.items() if last <= self._calls - _STALE]:
                del self._recent[size], self._last[size]

    def count(self, rows: int) -> int:
        """Return how many calls of so many rows were measured of late, up to a few."""
        return len(self._recent.get(rows, ()))

    def curve(self, most: int) -> list[float] | None:
        """Return the seconds of 0, 1, .. `most` rows and more; None of fewer than two sizes."""
        if len(self._curve) <= most and len(self._recent) > 1:
            self._curve = self._drawn(max(most, 2 * max(self._recent)))
        return self._curve or None

    def _drawn(self, most: int) -> list[float]:
        # The only call of its size may have been one of the slow ones.
        sizes = sorted(n for n, recent in self._recent.items() if len(recent) > 1)
        if len(sizes) < 2:
            sizes = sorted(self._recent)
        seconds: list[float] = []
        least = math.inf
        for size in reversed(sizes):
            # What took less with more rows was not slow for its rows.
            recent = sorted(self._recent[size])
            least = min(least, recent[len(recent) // 4])
            seconds.insert(0, least)
        slopes = [
            (seconds[-1] - value) / (sizes[-1] - size)
            for size, value in zip(sizes[:-1], seconds, strict=False)
        ]
        if most > sizes[-1]:  # as steep as on the way to the largest one
            seconds.append(seconds[-1] + max(slopes[0], slopes[-1]) * (most - sizes[-1]))
            sizes.append(most)
        curve: list[float] = np.interp(np.arange(most + 1), sizes, seconds).tolist()
        return curve
