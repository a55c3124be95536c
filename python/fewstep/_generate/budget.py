# SPDX-License-Identifier: Apache-2.0
"""How many drafted nodes are worth verifying, by what calls cost and what drafts brought so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import chain, repeat

import numpy as np

from fewstep._generate.worth import Worth
from fewstep.drafters._protocol import Draft

_RECENT = 8  # calls of one size that count
_FEW = 3  # of a size after which the line is fitted every so many calls
_STALE = 400  # calls after which a size is forgotten
_EXPLORE = 16  # every so many calls more is verified than pays, so that the estimates stay alive
_FADE = 0.99  # of a node's count after one more call
_MOST = 1e100  # of the unit of such counts
_PRIOR = (0.2, 2.0)  # hits and trials of a node that was never verified


class CallCost:
    """Seconds of a call as ``a + b * rows``, by the better ones of late of each size.

    Without those of drafting: calls with more rows are those that were drafted for, and what a row
    costs would be too much by it.

    A machine that others use makes some calls many times as long: a mean would follow those.
    """

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}
        self._last: dict[int, int] = {}
        self._calls = 0
        self._line: tuple[float, float] | None = None  # of a few calls ago

    def add(self, rows: int, seconds: float) -> None:
        """Take a measurement."""
        self._calls += 1
        recent = self._recent.get(rows)
        if recent is None:
            recent = self._recent[rows] = deque(maxlen=_RECENT)
        if self._calls % _RECENT == 0 or len(recent) < _FEW:
            self._line = None
        recent.append(seconds)
        self._last[rows] = self._calls
        if self._calls % _STALE == 0:
            for size in [n for n, last in self._last.items() if last <= self._calls - _STALE]:
                del self._recent[size], self._last[size]

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return bool(self._recent)

    def line(self) -> tuple[float, float] | None:
        """Return a and b; None before calls of two sizes were measured."""
        if self._line is None and len(self._recent) > 1:
            self._line = self._fit()
        return self._line

    def _fit(self) -> tuple[float, float]:
        # In lists, as all that follows: of a few numbers, an array takes longer.
        points: list[tuple[int, int, float]] = []
        least = math.inf
        for size, each in sorted(self._recent.items(), reverse=True):
            # What took less with more rows was not slow for its rows.
            least = min(least, sorted(each)[len(each) // 4])
            points.append((len(each), size, least))
        count = sum(n for n, _, _ in points)
        x = sum(n * size for n, size, _ in points) / count
        y = sum(n * seconds for n, _, seconds in points) / count
        spread = sum(n * (size - x) ** 2 for n, size, _ in points)
        slope = sum(n * (size - x) * (seconds - y) for n, size, seconds in points) / spread
        return max(0.0, y - max(0.0, slope) * x), max(0.0, slope)


class Budget:
    """Which nodes of deterministic drafts to verify.

    A node's chance is its `score`, or the share of its verifications in which it was on the
    accepted path, counted by its number, since drafters list nodes in an order that means
    something: the depth of a chain, the place in a template. The nodes that are kept, most likely
    first, make the expected tokens per second the most, with the cost of a call from `CallCost`.
    Drafts that were drawn from a law stay whole: what is left out must not depend on a clock, for
    the same seed to give the same tokens.
    """

    def __init__(self) -> None:
        self.cost, self.worth = CallCost(), Worth()
        self._hits: dict[int, float] = {}
        self._trials: dict[int, float] = {}
        self._unit = 1.0  # of both: it grows from call to call where counts would fade
        self._bare = False
        self._calls = 0

    def cut(self, drafts: list[Draft], drafting: float = 0.0) -> list[Draft]:
        """Leave out what costs more than it brings, after so many seconds of drafting."""
        free = [draft for draft in drafts if draft.law == "deterministic" and len(draft.token) > 1]
        if not free:
            return drafts
        line = self.cost.line()
        if line is not None:
            line = line[0] + drafting, line[1]
        chances = [self.chances(draft) for draft in free]
        self._calls += 1
        if line is not None:
            every = sorted(chain.from_iterable(each[1:] for each in chances), reverse=True)
            best = self._best(every, len(drafts), *line)
            best = self._explored(best, len(every), len(drafts), *line)
            if best == len(every):
                return drafts
            least = every[best - 1] if best else math.inf
            ties = every[:best].count(least)
        elif self.cost.known and not self._bare:
            least, ties = math.inf, 0  # one without drafts, to know what a row costs
            self._bare = True
        else:
            self._bare = False
            return drafts
        # Of equal ones those that come first stay: a parent comes before its children.
        some = chain(repeat(True, ties), repeat(False))
        kept = iter(
            [
                draft.subset(
                    [chance > least or (chance == least and next(some)) for chance in each]
                )
                for draft, each in zip(free, chances, strict=True)
            ]
        )
        chosen = {id(draft) for draft in free}
        return [next(kept) if id(draft) in chosen else draft for draft in drafts]

    def chances(self, draft: Draft) -> list[float]:
        """Return how likely each node is on the accepted path; no child's is above its parent's."""
        if draft.score is not None:
            chance: list[float] = np.asarray(draft.score).tolist()
        else:
            hits, trials = _PRIOR[0] * self._unit, _PRIOR[1] * self._unit
            chance = [
                (self._hits.get(i, 0.0) + hits) / (self._trials.get(i, 0.0) + trials)
                for i in _numbers(draft)
            ]
        chance[0] = math.inf
        for node, up in enumerate(draft.parent.tolist()):
            if node and chance[up] < chance[node]:
                chance[node] = chance[up]
        return chance

    @staticmethod
    def _best(chances: Sequence[float], batch: int, a: float, b: float) -> int:
        """Return how many nodes, the likeliest ones first, make the most tokens per second."""
        tokens, seconds = float(batch), a + b * batch
        for count, chance in enumerate(chances):
            # A node raises the rate while what it brings in its own time is above it, and the
            # chances fall: behind the first that does not none does.
            if chance * seconds < tokens * b:
                return count
            tokens, seconds = tokens + chance, seconds + b
        return len(chances)

    def _explored(self, best: int, most: int, batch: int, a: float, b: float) -> int:
        """Return a number of nodes to try, now and then another one than the best.

        What is tried takes up to twice the time, so trying takes up to 1 / `_EXPLORE` of all.
        """
        turn, rest = divmod(self._calls, _EXPLORE)
        if rest:
            return best
        twice = 2 * best + batch + a / b if b else math.inf
        most = int(min(most, twice))
        return (most, min(2 * best + 4, most), 0, min(2 * best + 4, most))[turn % 4]

    def learn(self, drafts: Sequence[Draft], paths: Sequence[Sequence[int]]) -> None:
        """Count which nodes were on the accepted paths."""
        # All counts fade: nodes that are left out come to stand at the prior and are tried again.
        self._unit /= _FADE
        if self._unit > _MOST:
            self._hits, self._trials = (
                {i: count / self._unit for i, count in counts.items()}
                for counts in (self._hits, self._trials)
            )
            self._unit = 1.0
        for draft, path in zip(drafts, paths, strict=True):
            if draft.law == "deterministic" and draft.score is None and len(draft.token) > 1:
                index = _numbers(draft)
                for i in index:
                    self._trials[i] = self._trials.get(i, 0.0) + self._unit
                for node in path:
                    self._hits[index[node]] = self._hits.get(index[node], 0.0) + self._unit


def _numbers(draft: Draft) -> Sequence[int]:
    """Return the numbers under which a draft's nodes are counted."""
    if draft.index is None:
        return range(len(draft.token))
    numbers: list[int] = np.asarray(draft.index).tolist()
    return numbers
