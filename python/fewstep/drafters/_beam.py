# SPDX-License-Identifier: Apache-2.0
"""The most likely tree of a draft model (EAGLE-2)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fewstep import tree
from fewstep.drafters._growth import Cache, Growing, Rows
from fewstep.drafters._pace import Pace
from fewstep.drafters._protocol import Draft


class _Candidates(Growing):
    """All nodes that were looked at of one request."""

    def __init__(self, root: int) -> None:
        super().__init__(root)
        self.logp = [0.0]

    def expand(self, ids: Any, logp: Any, beam: list[tuple[int, int]]) -> None:
        """Add the frontier's children, given row by row; go on with a beam of (row, token)."""
        first, width = len(self.token), ids.shape[1]
        for parent, tokens, values in zip(self.frontier, ids.tolist(), logp.tolist(), strict=True):
            self.token += tokens
            self.parent += [parent] * width
            self.logp += values
        self.frontier = [
            self.token.index(token, first + row * width) for row, token in beam if token >= 0
        ]

    def chance(self) -> float:
        """Return how likely the text goes through the frontier, to the draft model."""
        return sum(math.exp(self.logp[node]) for node in self.frontier)

    def kept(self, nodes: int) -> Draft:
        """Return the tree of the best nodes."""
        logp = np.array(self.logp, np.float32)
        best = tree.rerank(logp, np.array(self.parent, np.int32), nodes + 1)
        token = np.array(self.token, np.int32)[best.kept]
        return Draft(token, best.parent, score=np.exp(logp[best.kept]))


def best_trees(
    cache: Cache,
    blocks: Sequence[Rows],
    logits: Any,
    depths: Sequence[int],
    *,
    width: int,
    nodes: int,
    pace: Pace | None,
) -> list[Draft]:
    """Grow each request's tree by its most likely paths, then keep the best nodes.

    Parameters
    ----------
    cache, blocks, logits
        Of `Cache.root`.
    depths : sequence of int
        Of each tree at most, 1 or more.
    width : int
        Children of a node, and nodes of a level that have children.
    nodes : int
        That are kept, the root not counted.
    pace : Pace or None
        Ends the growth early.
    """
    trees = [_Candidates(block.token[0]) for block in blocks]
    going = list(range(len(trees)))
    began = time.perf_counter()
    for depth in range(1, max(depths) + 1):
        _expand([trees[b] for b in going], logits, width, cache.model.d2t)
        going = [b for b in going if depth < depths[b] and trees[b].frontier]
        if not going or (pace and not pace.pays(sum(trees[b].chance() for b in going))):
            break
        level = time.perf_counter()
        try:
            logits = cache.level([blocks[b] for b in going], [trees[b] for b in going])
        except MemoryError:
            break
        if pace:
            pace.level(time.perf_counter() - level)
    if pace:
        pace.drafted(time.perf_counter() - began)
    return [one.kept(nodes) for one in trees]


def _expand(trees: Sequence[_Candidates], logits: Any, width: int, d2t: Any) -> None:
    logp = np.array([one.logp[node] for one in trees for node in one.frontier], np.float32)
    ends = np.cumsum([0, *(len(one.frontier) for one in trees)]).astype(np.int32)
    best = tree.expand(logp, logits, width, beam=width, indptr=ends, d2t=d2t)
    ids, values = np.asarray(best.ids), np.asarray(best.logp)
    rows, tokens = best.beam_parent.tolist(), best.beam_ids.tolist()
    for b, one in enumerate(trees):
        own = slice(int(ends[b]), int(ends[b + 1]))
        one.expand(ids[own], values[own], list(zip(rows[b], tokens[b], strict=True)))
