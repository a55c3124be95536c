# SPDX-License-Identifier: Apache-2.0
"""Whether a further level of a draft is worth its time."""

from __future__ import annotations

from fewstep.drafters._protocol import Seen

_MEMORY = 0.9


class Pace:
    """Tokens per second of the whole, and seconds of a level of drafting, both of late."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self._level = 0.0
        self._drafting = 0.0

    def called(self, seen: Seen) -> None:
        """Take note of a call of the target and of the drafting before it."""
        counts = seen.accepted.tolist()
        self._tokens = _MEMORY * self._tokens + sum(counts) + len(counts)
        self._seconds = _MEMORY * self._seconds + seen.seconds + self._drafting
        self._drafting = 0.0

    def level(self, seconds: float) -> None:
        """Take note of the time of a level."""
        # Down at once, up slowly: a level that others kept waiting says little of the next one.
        self._level += (seconds - self._level) * ((1 - _MEMORY) if seconds > self._level > 0 else 1)

    def drafted(self, seconds: float) -> None:
        """Take note of the time of a draft, its levels included."""
        self._drafting += seconds

    def chained(self, seconds: float, passes: int, alike: bool) -> None:
        """Take note of a draft in one call of the model, of passes that cost alike or not."""
        self.drafted(seconds)
        if alike and passes:
            self.level(seconds / passes)

    def least(self) -> float:
        """Return the chance of a frontier, on the texts' way, from which on a level does not pay.

        What a level can bring is at most that many tokens; the same time brings others elsewhere.
        """
        if not self._level or not self._seconds:
            return 0.0
        return self._level * self._tokens / self._seconds
