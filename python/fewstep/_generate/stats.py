# SPDX-License-Identifier: Apache-2.0
"""What a generator counted and where its time went."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Stats:
    """Counts and seconds of a generator since it was made or `Generator.stats` was reset.

    Attributes
    ----------
    calls : int
        Of the target for one request: a call with a batch of B counts B times.
    forwards : int
        Of the target, for whole batches; those of prompts are `prefills`.
    prefills : int
    tokens : int
        Generated.
    nodes : int
        Drafted tokens that were verified.
    accepted : int
        Those of them that became part of a text.
    drafted_by_depth, accepted_by_depth : list of int
        Calls that had drafts at depth d + 1 below what was accepted before it, and of them those
        that accepted one.
    drafter_errors : int
        Drafts that were dropped because the drafter failed or what it drafted was no tree.
    last_error : Exception or None
        The last of them.
    seconds : dict
        ``model`` in the target, ``draft`` in the drafter, ``fewstep`` everywhere else; of the last,
        ``verify`` in penalties, masks and verification, ``cache`` in making room and keeping what
        was accepted.
    """

    calls: int = 0
    forwards: int = 0
    prefills: int = 0
    tokens: int = 0
    nodes: int = 0
    accepted: int = 0
    drafted_by_depth: list[int] = field(default_factory=list)
    accepted_by_depth: list[int] = field(default_factory=list)
    drafter_errors: int = 0
    last_error: Exception | None = None
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("model", "draft", "fewstep", "verify", "cache"), 0.0)
    )

    def spent(self, part: str, began: float) -> None:
        """Count the time since `began` as a part's."""
        self.seconds[part] += perf_counter() - began

    @property
    def tokens_per_call(self) -> float:
        """Generated tokens for a call of the target and request; 1 without drafts."""
        return self.tokens / self.calls if self.calls else 0.0

    @property
    def acceptance_by_depth(self) -> list[float]:
        """Share of the drafts that were accepted at each depth, of those accepted before it."""
        pairs = zip(self.accepted_by_depth, self.drafted_by_depth, strict=True)
        return [accepted / drafted for accepted, drafted in pairs]

    def count_path(self, accepted: int, more: bool) -> None:
        """Count a draft of which so many tokens were accepted; `more` were drafted behind them."""
        drafted, all_accepted = self.drafted_by_depth, self.accepted_by_depth
        while len(drafted) < accepted + more:
            drafted.append(0)
            all_accepted.append(0)
        for depth in range(accepted):
            drafted[depth] += 1
            all_accepted[depth] += 1
        if more:
            drafted[accepted] += 1
        self.accepted += accepted
