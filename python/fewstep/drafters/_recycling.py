# SPDX-License-Identifier: Apache-2.0
"""Drafts from what the target held likely before; `fewstep.drafters` re-exports it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fewstep import _core, tree
from fewstep import draft as drafts
from fewstep._generate.request import Request
from fewstep._transfer import on_device
from fewstep.drafters._likeliest import likeliest
from fewstep.drafters._protocol import Draft, Known, Seen
from fewstep.drafters._shape import Paths, Shape


class TokenRecycling:
    """Drafts what the target once held likely after each token, accepted or not.

    Prompts are read, too: what followed a token there comes before what is known of it.

    Parameters
    ----------
    template : pair of arrays, optional
        Parents and ranks of the tree, from `fewstep.tree.template`; that of the paper by default.
    successors : int
        How many tokens to keep for each token.

    References
    ----------
    .. [1] Luo et al., "Turning Trash into Treasure: Accelerating Inference of Large Language Models
       with Token Recycling", arXiv 2408.08696.

    Examples
    --------
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)
    >>> drafter = fewstep.drafters.TokenRecycling()
    >>> generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    >>> greedy = fewstep.Sampling(temperature=0, max_tokens=24)
    >>> len(generator.generate([[1, 2, 3]], greedy)[0].tokens)
    24
    >>> generator.stats.tokens_per_call > 1.5  # the cycle of 8 tokens is known after one round
    True
    """

    def __init__(
        self,
        template: Paths | None = None,
        successors: int = 8,
    ) -> None:
        shape = Shape(tree.TOKEN_RECYCLING if template is None else template)
        self._parent = np.ascontiguousarray(shape.parent, np.int32)
        self._rank = np.ascontiguousarray(shape.rank, np.int32)
        highest = int(shape.rank[1:].max(initial=0))
        if not highest < successors <= 64:
            raise ValueError(
                "fewstep.drafters.TokenRecycling: 'successors' must be above the template's ranks "
                f"and at most 64, got {successors} with rank {highest}"
            )
        self._successors = successors
        self._table: NDArray[np.int32] | None = None
        self._unread: list[list[int]] = []  # prompts from before the table
        self._fresh: set[int] = set()  # rows that prompts have changed

    def start(self, request: Request) -> None:
        """Read the prompt."""
        if self._table is None:
            self._unread.append(request.tokens[:])
        else:
            self._read(self._table, request.tokens)

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> list[Draft | None]:
        """Fill the template from the table."""
        return [self._one(request, limit) for request, limit in zip(requests, limits, strict=True)]

    def _one(self, request: Request, limit: int) -> Draft | None:
        if self._table is None:
            return None
        last = request.tokens[-1]
        found = _core.draft_recycled(self._table, self._parent, self._rank, last, limit)
        return None if found is None else Draft(found[0], found[1], index=found[2])

    def observe(self, seen: Seen) -> None:
        """Keep what the target found likely after each node."""
        if self._table is None:
            self._table = np.full((seen.logits.shape[1], self._successors), -1, np.int32)
            for tokens in self._unread:
                self._read(self._table, tokens)
            self._unread = []
        if on_device(seen.logits):
            ids, _ = likeliest(seen.logits, self._successors)
            drafts.recycle(self._table, seen.token, ids)
        else:
            _core.draft_recycle_best(self._table, seen.token, seen.logits)

    def known(self) -> Known | None:
        """Return the template and the table, for calls that draft on a device."""
        if self._table is None:
            return None
        fresh, self._fresh = np.array(sorted(self._fresh), np.int64), set()
        return Known(self._parent, self._rank, self._table, fresh)

    def _read(self, table: NDArray[np.int32], tokens: Sequence[int]) -> None:
        """Put what follows each token first in its row."""
        rows: dict[int, list[int]] = {}
        for token, after in pairwise(tokens):
            row = rows.get(token)
            if row is None:
                row = rows[token] = table[token].tolist()
            if row[0] == after:
                continue
            row.pop(row.index(after) if after in row else -1)
            row.insert(0, after)
        if rows:
            table[list(rows)] = list(rows.values())
            self._fresh.update(rows)

    def stop(self, request: Request) -> None:
        """Nothing."""
