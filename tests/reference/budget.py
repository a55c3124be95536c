# SPDX-License-Identifier: Apache-2.0
"""Plain Python of what a generator knows of calls and drafts, as budget.h describes it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from fewstep.drafters import Draft


class CallCost:
    """Seconds of a call by its rows, by the better ones of the last 8 of each size."""

    def __init__(self) -> None:
        self.recent: dict[int, deque[float]] = {}
        self.last: dict[int, int] = {}
        self.calls = 0
        self.known: list[float] = []

    def add(self, rows: int, seconds: float) -> None:
        self.calls += 1
        recent = self.recent.setdefault(rows, deque(maxlen=8))
        if self.calls % 8 == 0 or len(recent) < 3:
            self.known = []
        recent.append(seconds)
        self.last[rows] = self.calls
        if self.calls % 400 == 0:
            for size in [n for n, last in self.last.items() if last <= self.calls - 400]:
                del self.recent[size], self.last[size]

    def count(self, rows: int) -> int:
        return len(self.recent.get(rows, ()))

    def curve(self, most: int) -> list[float] | None:
        if len(self.known) <= most:
            self.known = []
            if len(self.recent) > 1:
                self.known = self.drawn(max(most, 2 * max(self.recent)))
        return self.known or None

    def drawn(self, most: int) -> list[float]:
        sure = [size for size, recent in self.recent.items() if len(recent) > 1]
        sizes, seconds = [], []
        for size in sorted(self.recent):
            own = sorted(self.recent[size])[len(self.recent[size]) // 4]
            if sure and size not in sure and size > min(sure):
                if size < max(sure):
                    continue
                own = min(own, seconds[sizes.index(max(sure))] * size / max(sure))
            sizes.append(size)
            seconds.append(own)
        seconds = np.minimum.accumulate(seconds[::-1])[::-1].tolist()
        slopes = [(seconds[-1] - seconds[i]) / (sizes[-1] - sizes[i]) for i in (0, len(sizes) - 2)]
        falls = min(slopes[0], seconds[0] / sizes[0])
        if most > sizes[-1]:
            rises = max(*slopes, 0.1 * (seconds[-1] / sizes[-1]))
            seconds.append(seconds[-1] + rises * (most - sizes[-1]))
            sizes.append(most)
        seconds.insert(0, seconds[0] - falls * sizes[0])
        sizes.insert(0, 0)
        return np.interp(np.arange(most + 1), sizes, seconds).tolist()


class Budget:
    """The likeliest nodes with which expected tokens per second are the most."""

    def __init__(self) -> None:
        self.hits: dict[int, float] = {}
        self.trials: dict[int, float] = {}
        self.unit = 1.0
        self.counted: tuple[list[int], list[float], int] = ([], [], 0)
        self.calls = 0
        self.drafting: deque[float] = deque(maxlen=8)
        self.power, self.scored = 1.0, 0
        self.expected, self.best = 0.0, (0.0, 0.0)

    def cut(
        self, cost: CallCost, drafts: Sequence[Draft], drafting: float, trial: bool
    ) -> list[list[bool]]:
        """Return which nodes of each draft to verify."""
        self.expected, self.best = 0.0, (0.0, 0.0)
        free = [draft for draft in drafts if is_free(draft)]
        rows = sum(1 if draft.law == "deterministic" else len(draft.token) for draft in drafts)
        if not free:
            return [[True] * len(draft.token) for draft in drafts]
        self.drafting.append(drafting)
        if trial:
            self.counted = ([], [], 0)
        chances = [self.ranked(draft) for draft in free]
        order = sorted((-c, d, i) for d, own in enumerate(chances) for i, c in enumerate(own) if i)
        every = [-c for c, _, _ in order]
        self.calls += 1
        usual = sorted(self.drafting)[(len(self.drafting) - 1) // 2]
        wanted = self.wanted(cost, every, len(drafts), rows, usual, trial)
        for chance in every[:wanted]:
            self.expected += chance
        stay = {(d, i) for _, d, i in order[:wanted]}
        places = iter(range(len(free)))
        kept = []
        for draft in drafts:
            d = next(places) if is_free(draft) else -1
            kept.append([d < 0 or i == 0 or (d, i) in stay for i in range(len(draft.token))])
        return kept

    def ranked(self, draft: Draft) -> list[float]:
        parent = draft.parent.tolist()
        if draft.score is not None or draft.index is not None:
            return self.chances(draft, parent)
        if self.counted[0] != parent or self.calls >= self.counted[2] + 8:
            self.counted = (parent, self.chances(draft, parent), self.calls)
        return self.counted[1]

    def chances(self, draft: Draft, parent: list[int]) -> list[float]:
        chance = [1.0 if draft.score is None else math.inf]
        for i, number in list(enumerate(numbers(draft)))[1:]:
            up = chance[parent[i]]
            if draft.score is None:
                own = self.hits.get(number, 0.0) + 0.5 * self.unit * up
                own /= self.trials.get(number, 0.0) + self.unit
            else:
                score = float(draft.score[i])
                own = min(score, 1.0) ** self.power if score > 0 else 0.0
            chance.append(min(up, own))
        return chance

    def wanted(
        self,
        cost: CallCost,
        every: list[float],
        batch: int,
        rows: int,
        drafting: float,
        trial: bool,
    ) -> int:
        curve = cost.curve(rows + len(every))
        start = min(len(every), max(3, batch))
        if curve is None:
            return 0 if cost.count(rows + start) else start
        seconds = [curve[rows + n] + drafting for n in range(len(every) + 1)]
        best, tokens = 0, float(batch)
        self.best = tokens, seconds[0]
        for n, chance in enumerate(every, 1):
            rate = self.best[0] / self.best[1]
            if tokens + chance * (len(every) + 1 - n) < rate * seconds[n]:
                break
            tokens += chance
            if tokens > rate * seconds[n]:
                best, self.best = n, (tokens, seconds[n])

        def affordable(more: int) -> int:
            while more > best and seconds[more] > 1.5 * seconds[best]:
                more -= 1
            return max(more, best)

        turn, rest = divmod(self.calls, 16)
        if trial:
            return max(start, best) if cost.count(rows + start) < 3 else affordable(start)
        if rest:
            return best
        if turn % 4 == 2:
            return 0
        return affordable(len(every) if turn % 4 == 0 else min(len(every), 2 * best + 2 * batch))

    def learn(self, drafts: Sequence[Draft], paths: Sequence[Sequence[int]]) -> tuple[float, float]:
        """Count accepted nodes; return tokens and seconds of the call as it would pay the most."""
        self.unit /= 0.99
        if self.unit > 1e100:
            for counts in (self.hits, self.trials):
                counts.update({i: count / self.unit for i, count in counts.items()})
            self.unit = 1.0
        free = [(d, path) for d, path in zip(drafts, paths, strict=True) if is_free(d)]
        for draft, path in free:
            if draft.score is None:
                index = numbers(draft)
                for i in index:
                    self.trials[i] = self.trials.get(i, 0.0) + self.unit
                for node in path:
                    self.hits[index[node]] = self.hits.get(index[node], 0.0) + self.unit
        if any(draft.score is not None for draft, _ in free):
            accepted = sum(len(path) for _, path in free)
            error = (self.expected - accepted) / (self.expected + len(drafts))
            self.scored += 1
            step = max(0.02, 0.2 / (1 + self.scored / 8))
            self.power = min(max(self.power * math.exp(step * error), 0.25), 8.0)
        return self.best

    def doubt(self) -> None:
        self.unit *= 8.0
        self.power, self.scored = 1.0, 0


def is_free(draft: Draft) -> bool:
    return draft.law == "deterministic" and len(draft.token) > 1


def numbers(draft: Draft) -> list[int]:
    return list(range(len(draft.token))) if draft.index is None else draft.index.tolist()
