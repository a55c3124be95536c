# SPDX-License-Identifier: Apache-2.0
"""The most likely tree of a draft model (EAGLE-2)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fewstep import tree
from fewstep._generate.pack import ends_of
from fewstep.drafters._growth import Cache, Growing, Rows, chain_draft
from fewstep.drafters._pace import Pace
from fewstep.drafters._protocol import Draft


class _Candidates(Growing):
    """All nodes that were looked at of one request."""

    def __init__(self, root: int) -> None:
        super().__init__(root)
        self.logp = [0.0]

    def expand(
        self, ids: list[list[int]], logp: list[list[float]], rows: list[int], beam: list[int]
    ) -> None:
        """Add the frontier's children, given row by row; go on with a beam of rows' tokens."""
        first, width = len(self.token), len(ids[0])
        for parent, tokens, values in zip(self.frontier, ids, logp, strict=True):
            self.token += tokens
            self.parent += [parent] * width
            self.logp += values
        self.frontier = [
            self.token.index(token, first + row * width)
            for row, token in zip(rows, beam, strict=True)
            if token >= 0
        ]

    def chance(self) -> float:
        """Return how likely the text goes through the frontier, to the draft model."""
        return sum(math.exp(self.logp[node]) for node in self.frontier)


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
        if not going or sum(trees[b].chance() for b in going) <= (pace.least() if pace else 0.0):
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
    return _chains(trees, nodes) if width == 1 else _kept(trees, nodes)


def _expand(trees: Sequence[_Candidates], logits: Any, width: int, d2t: Any) -> None:
    logp = np.array([one.logp[node] for one in trees for node in one.frontier], np.float32)
    ends = ends_of(len(one.frontier) for one in trees)
    # NumPy's arrays also where logits are a tensor: they are made and read in less time.
    ids, beam = np.empty((ends[-1], width), np.int32), np.empty((2, len(trees), width), np.int32)
    best = np.empty(ids.shape, np.float32)
    tree.expand(
        logp, logits, width, beam=width, indptr=np.array(ends, np.int32), d2t=d2t, ids=ids,
        logp=best, beam_ids=beam[0], beam_parent=beam[1],
        beam_logp=np.empty(beam.shape[1:], np.float32), status=np.empty(logp.shape, np.int32),
    )  # fmt: skip
    tokens, values, (beams, rows) = ids.tolist(), best.tolist(), beam.tolist()
    for b, one in enumerate(trees):
        own = slice(ends[b], ends[b + 1])
        one.expand(tokens[own], values[own], rows[b], beams[b])


def _chains(trees: Sequence[_Candidates], nodes: int) -> list[Draft]:
    """Return chains, the best nodes of which are the first ones."""
    return [chain_draft(one.token[: nodes + 1], one.logp[: nodes + 1]) for one in trees]


def _kept(trees: Sequence[_Candidates], nodes: int) -> list[Draft]:
    """Return the trees of the best nodes."""
    logp = np.array([value for one in trees for value in one.logp], np.float32)
    parent = np.array([up for one in trees for up in one.parent], np.int32)
    token = np.array([token for one in trees for token in one.token], np.int32)
    indptr = np.array(ends_of(len(one.token) for one in trees), np.int32)
    best = tree.rerank(logp, parent, nodes + 1, indptr=indptr)
    token, score = token[best.kept], np.exp(logp[best.kept])
    return [
        Draft(token[a:b], best.parent[a:b], score=score[a:b])
        for a, b in pairwise(best.indptr.tolist())
    ]
