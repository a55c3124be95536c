# SPDX-License-Identifier: Apache-2.0
"""How many drafted nodes are worth verifying, by what calls cost and what drafts brought so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from fewstep._generate.call_cost import CallCost
from fewstep._generate.worth import Worth
from fewstep.drafters._protocol import Draft

_START = 3  # nodes, or one of each draft, while nothing is known of them
_SURE = 3  # calls of a size that tell what it takes
_EXPLORE = 16  # every so many calls more is verified than pays, so that the estimates stay alive
_DEARER = 1.5  # what a call that explores may take more than the best one
_FADE = 0.99  # of a count after one more call
_DOUBT = 8.0  # how much less counts count after a pause
_MOST = 1e100  # of the unit of such counts
_PRIOR = (0.5, 1.0)  # of a node that was never verified: its parent's chance, and trials
_RECENT = 8  # drafts whose seconds count
_EVERY = 8  # calls after which the chances of a tree are counted again
_TRUST, _WARY = 0.2, 0.02  # how far an error in scores moves their power: at first, and at last
_POWERS = (0.25, 8.0)


class _Ranked(NamedTuple):
    """The chances of a draft's nodes, inf for the root; those of the others, most likely first."""

    chances: list[float]
    order: list[float]
    calls: int  # when they were counted
    masks: dict[int, list[bool]]  # the nodes to keep, by how many


class Budget:
    """Which nodes of deterministic drafts to verify.

    A node's chance is its `score`, or the share of its verifications in which it was on the
    accepted path, counted by its number, since drafters list nodes in an order that means
    something: the depth of a chain, the place in a template. Scores are raised to a power with
    which they sum up to what is accepted: a drafter that thinks too well of a token does so of each
    on the way to a node. The nodes that are kept, most likely first, make the expected tokens per
    second the most, with the cost of a call from `CallCost`. Drafts that were drawn from a law stay
    whole: what is left out must not depend on a clock, for the same seed to give the same tokens.
    """

    def __init__(self) -> None:
        self.cost, self.worth = CallCost(), Worth()
        self._hits: dict[int, float] = {}
        self._trials: dict[int, float] = {}
        self._unit = 1.0  # of both: it grows from call to call where counts would fade
        self._counted: dict[bytes, _Ranked] = {}  # by the tree
        self._calls = 0
        self._drafting: deque[float] = deque(maxlen=_RECENT)  # seconds, of drafts of late
        self._power, self._scored = 1.0, 0  # after so many calls
        self._expected = 0.0  # nodes that the last call was to accept
        self._best = (0.0, 0.0)  # tokens and seconds of the last call as it would pay the most

    def cut(self, drafts: list[Draft], drafting: float = 0.0) -> list[Draft]:
        """Leave out what costs more than it brings, after so many seconds of drafting."""
        self._expected, self._best = 0.0, (0.0, 0.0)
        free = [draft for draft in drafts if draft.law == "deterministic" and len(draft.token) > 1]
        if not free:
            return drafts
        # Some drafts take long, such as the first ones of a text, which is to be read for them.
        self._drafting.append(drafting)
        drafting = sorted(self._drafting)[(len(self._drafting) - 1) // 2]
        on_trial = self.worth.tries(len(drafts))
        if on_trial:
            self._counted = {}
        ranks = [self._ranked(draft) for draft in free]
        every = ranks[0].order
        if len(free) > 1:
            every = sorted(chain.from_iterable([rank.order for rank in ranks]), reverse=True)
        self._calls += 1
        rows = _rows(drafts) - len(every)
        wanted = self._wanted(every, len(drafts), rows, drafting, on_trial)
        self._expected = sum(every[:wanted])
        if wanted == len(every):
            return drafts
        kept = iter(_cut(free, ranks, every, wanted))
        chosen = {id(draft) for draft in free}
        return [next(kept) if id(draft) in chosen else draft for draft in drafts]

    def _ranked(self, draft: Draft) -> _Ranked:
        """Return a draft's chances, which are counted again now and then only."""
        is_counted = draft.score is None and draft.index is None
        tree = draft.parent.tobytes() if is_counted else b""
        known = self._counted.get(tree)
        if known is None or self._calls >= known.calls + _EVERY:
            chances = self.chances(draft)
            known = _Ranked(chances, sorted(chances[1:], reverse=True), self._calls, {})
            if tree:
                self._counted = {tree: known}
        return known

    def chances(self, draft: Draft) -> list[float]:
        """Return how likely each node is on the accepted path; no child's is above its parent's."""
        parent: list[int] = draft.parent.tolist()
        if draft.score is not None:
            power = self._power
            chance: list[float] = [
                min(score, 1.0) ** power if score > 0 else 0.0
                for score in np.asarray(draft.score).tolist()
            ]
            chance[0] = math.inf
            for node, up in enumerate(parent):
                if node and chance[up] < chance[node]:
                    chance[node] = chance[up]
            return chance
        hits, trials = _PRIOR[0] * _PRIOR[1] * self._unit, _PRIOR[1] * self._unit
        chance = [1.0]
        for i, up in zip(_numbers(draft)[1:], parent[1:], strict=True):
            own = self._hits.get(i, 0.0) + hits * chance[up]
            chance.append(min(chance[up], own / (self._trials.get(i, 0.0) + trials)))
        chance[0] = math.inf
        return chance

    def _wanted(
        self, every: list[float], batch: int, rows: int, drafting: float, on_trial: bool
    ) -> int:
        """Return how many nodes to verify beside `rows` that are run in any case."""
        curve = self.cost.curve(rows + len(every))
        start = min(len(every), max(_START, batch))
        if curve is None:
            # One size without drafts, to know what rows cost.
            return 0 if self.cost.count(rows + start) else start
        best, tokens = 0, float(batch)
        self._best = tokens, curve[rows] + drafting
        rate = tokens / self._best[1]
        for count, chance in enumerate(every, 1):
            seconds = curve[rows + count] + drafting
            if tokens + chance * (len(every) + 1 - count) < rate * seconds:
                break  # not even if the others cost nothing
            tokens += chance
            if tokens > rate * seconds:
                best, rate, self._best = count, tokens / seconds, (tokens, seconds)
        curve = curve[rows:]
        turn, rest = divmod(self._calls, _EXPLORE)
        if on_trial:  # what is not verified shows nothing, and one call may have been a slow one
            unsure = self.cost.count(rows + start) < _SURE
            return max(start, best) if unsure else _affordable(start, best, curve, drafting)
        if rest:
            return best
        if turn % 4 == 2:
            return 0
        more = len(every) if turn % 4 == 0 else min(len(every), 2 * best + 2 * batch)
        return _affordable(more, best, curve, drafting)

    def learn(
        self, drafts: Sequence[Draft], paths: Sequence[Sequence[int]], seconds: float
    ) -> None:
        """Count which nodes were on the accepted paths of a call that was drafted for."""
        # All counts fade: nodes that are left out come to stand at the prior and are tried again.
        self._unit /= _FADE
        if self._unit > _MOST:
            self._hits, self._trials = (
                {i: count / self._unit for i, count in counts.items()}
                for counts in (self._hits, self._trials)
            )
            self._unit = 1.0
        accepted, scored = 0, False
        for draft, path in zip(drafts, paths, strict=True):
            if draft.law != "deterministic" or len(draft.token) < 2:
                continue
            accepted += len(path)
            scored = scored or draft.score is not None
            if draft.score is None:
                index = _numbers(draft)
                for i in index:
                    self._trials[i] = self._trials.get(i, 0.0) + self._unit
                for node in path:
                    self._hits[index[node]] = self._hits.get(index[node], 0.0) + self._unit
        if scored:
            error = (self._expected - accepted) / (self._expected + len(drafts))
            self._scored += 1
            step = max(_WARY, _TRUST / (1 + self._scored / 8))
            power = self._power * math.exp(step * error)
            self._power = min(max(power, _POWERS[0]), _POWERS[1])
        batch = len(drafts)
        curve = self.cost.curve(batch) if self.cost.count(batch) else None
        plain = None if curve is None else batch / curve[batch]
        # What it was expected to bring varies less than what it brought, and a call that explores
        # says nothing of others.
        tokens, lasted = self._best
        if not lasted:
            tokens, lasted = float(batch + sum(map(len, paths))), seconds
        if self.worth.learn(batch, tokens, lasted, plain):
            # After the pause what drafts show then counts, not how bad they were before.
            self._unit *= _DOUBT
            self._power, self._scored = 1.0, 0


def _cut(
    drafts: Sequence[Draft], ranks: Sequence[_Ranked], every: list[float], wanted: int
) -> list[Draft]:
    """Return the drafts with the `wanted` likeliest nodes of all."""
    if len(drafts) == 1 and every == ranks[0].chances[1:]:
        return [drafts[0].head(1 + wanted)]
    if len(drafts) == 1 and wanted in ranks[0].masks:
        return [drafts[0].subset(ranks[0].masks[wanted])]
    # Of equal ones those that come first stay: a parent comes before its children.
    least = every[wanted - 1] if wanted else math.inf
    some = chain(repeat(True, every[:wanted].count(least)), repeat(False))
    masks = [
        [chance > least or (chance == least and next(some)) for chance in rank.chances]
        for rank in ranks
    ]
    if len(drafts) == 1:
        ranks[0].masks[wanted] = masks[0]
    return [draft.subset(mask) for draft, mask in zip(drafts, masks, strict=True)]


def _affordable(wanted: int, best: int, curve: list[float], drafting: float) -> int:
    """Return `wanted` or as many nodes as the best number at least, in little more of its time."""
    limit = _DEARER * (curve[best] + drafting)
    while wanted > best and curve[wanted] + drafting > limit:
        wanted -= 1
    return max(wanted, best)


def _rows(drafts: Sequence[Draft]) -> int:
    return sum([len(draft.token) for draft in drafts])


def _numbers(draft: Draft) -> Sequence[int]:
    """Return the numbers under which a draft's nodes are counted."""
    if draft.index is None:
        return range(len(draft.token))
    numbers: list[int] = np.asarray(draft.index).tolist()
    return numbers
