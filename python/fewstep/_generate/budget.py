# SPDX-License-Identifier: Apache-2.0
"""How many drafted nodes are worth verifying, by what calls cost and what drafts brought so far."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep import _core
from fewstep._generate.worth import Worth
from fewstep.drafters._protocol import Draft


class Budget:
    """Which nodes of deterministic drafts to verify: those that make a call pay the most.

    What it knows is in C++, see budget.h: a call has more to do than to count. Drafts that were
    drawn from a law stay whole: what is left out must not depend on a clock, for the same seed to
    give the same tokens.
    """

    def __init__(self) -> None:
        self.cost, self.worth = _core.CallCost(), Worth()
        self._counted = _core.Budget()

    def cut(self, drafts: list[Draft], drafting: float = 0.0) -> list[Draft]:
        """Leave out what costs more than it brings, after so many seconds of drafting."""
        on_trial = self.worth.tries(len(drafts))
        kept = self._counted.cut(self.cost, drafts, drafting, on_trial)
        if kept is None:
            return drafts
        return [
            draft
            if nodes is None
            else draft.head(nodes)
            if isinstance(nodes, int)
            else draft.subset(nodes)
            for draft, nodes in zip(drafts, kept, strict=True)
        ]

    def learn(self, drafts: list[Draft], paths: Sequence[Sequence[int]], seconds: float) -> None:
        """Count which nodes were on the accepted paths of a call that was drafted for."""
        batch = len(drafts)
        # What it was expected to bring varies less than what it brought, and a call that explores
        # says nothing of others.
        tokens, lasted, plain = self._counted.learn(self.cost, drafts, paths)
        if not lasted:
            tokens, lasted = float(batch + sum(map(len, paths))), seconds
        if self.worth.learn(batch, tokens, lasted, batch / plain if plain else None):
            # After the pause what drafts show then counts, not how bad they were before.
            self._counted.doubt()
