# SPDX-License-Identifier: Apache-2.0
"""Trees that are drawn from a draft model: chains, SpecTr's, RSD-C and RSD-S."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewstep import logits as logits_ops
from fewstep import tree
from fewstep._generate.request import Request
from fewstep._generate.sampling import FILTERS
from fewstep.drafters._growth import Cache, Growing, Rows
from fewstep.drafters._protocol import Draft

# How each mode draws the children of a node, by what law they are then verified, and by what rule.
LAWS = {
    "chain": ("iid", "iid", "block"),
    "k_seq": ("iid", "iid", "k_seq"),
    "rsd_c": ("without_replacement", "without_replacement", "rrs"),
    "rsd_s": ("stochastic_beam", "without_replacement", "rrs"),
}


class _Drawn(Growing):
    """A tree all of whose nodes stay."""

    def __init__(self, root: int, times: int) -> None:
        super().__init__(root)
        self.logp, self.perturbed = [0.0], [0.0]
        self.times = [times]  # draws at a node: of independent chains, those that go through it
        self.draws: list[list[int]] = [[]]  # children at each node, in the order of the draws
        self.q_row = [0]
        self.q: list[Any] = []

    def add(self, parent: int, token: int, logp: float, perturbed: float) -> None:
        """Add a draw: a child, or once more one that was drawn before."""
        for child in self.draws[parent]:
            if self.token[child] == token:
                self.times[child] += 1
                self.draws[parent].append(child)
                return
        node = len(self.token)
        self.token.append(token)
        self.parent.append(parent)
        self.logp.append(self.logp[parent] + logp)
        self.perturbed.append(perturbed)
        self.times.append(1)
        self.draws.append([])
        self.q_row.append(0)
        self.draws[parent].append(node)
        self.frontier.append(node)

    def draft(self, mode: str, q_ids: Any) -> Draft:
        """Return the tree with its draws and what they were drawn from."""
        _, law, rule = LAWS[mode]
        ends = np.cumsum([0, *map(len, self.draws)]).astype(np.int32)
        return Draft(
            np.array(self.token, np.int32),
            np.array(self.parent, np.int32),
            law=law,
            rule=rule,
            q=np.concatenate(self.q),
            q_row=np.array(self.q_row, np.int32),
            q_ids=q_ids,
            draw_node=np.array([node for own in self.draws for node in own], np.int32),
            draw_indptr=ends,
        )


def drawn_trees(
    cache: Cache,
    requests: Sequence[Request],
    blocks: Sequence[Rows],
    logits: Any,
    depths: Sequence[int],
    *,
    mode: str,
    width: int,
) -> list[Draft]:
    """Draw a tree for each request.

    Parameters
    ----------
    cache, requests, blocks, logits
        Of `Cache.root`.
    depths : sequence of int
        Of each tree, 1 or more.
    mode : str
        Of `LAWS`.
    width : int
        Draws at the root, and at every node of ``rsd_c``; nodes of a level of ``rsd_s``.
    """
    trees = [_Drawn(block.token[0], width) for block in blocks]
    going = list(range(len(trees)))
    for depth in range(1, max(depths) + 1):
        _draw(
            [trees[b] for b in going],
            [requests[b] for b in going],
            depth,
            logits,
            cache,
            mode,
            width,
        )
        going = [b for b in going if depth < depths[b] and trees[b].frontier]
        if not going:
            break
        try:
            logits = cache.level([blocks[b] for b in going], [trees[b] for b in going])
        except MemoryError:
            break
    return [one.draft(mode, cache.model.d2t) for one in trees]


def _draw(
    trees: Sequence[_Drawn], requests: Sequence[Request], depth: int, logits: Any, cache: Cache,
    mode: str, width: int,
) -> None:  # fmt: skip
    """Draw the children of all frontiers; they are the next ones."""
    counts = [len(one.frontier) for one in trees]
    filters: dict[str, Any] = {
        name: np.array([getattr(request.sampling, name) for request in requests], dtype)
        for name, dtype in FILTERS.items()
    }
    rows = np.repeat(np.arange(len(trees)), counts)
    last = np.array([len(request.tokens) - 1 for request in requests], np.int32)
    law, beam = LAWS[mode][0], mode == "rsd_s"
    chains = mode in ("chain", "k_seq")
    nodes = [(one, node) for one in trees for node in one.frontier]
    drawn = tree.sample_children(
        logits, law, max(one.times[node] for one, node in nodes) if chains else width,
        np.array([request.sampling.seed for request in requests], np.int64),
        (last + depth - 1)[rows],
        beam=width if beam else None,
        indptr=np.cumsum([0, *counts]).astype(np.int32),
        node=np.array([node for _, node in nodes], np.int32),
        **filters,
        cum_logp=np.array([one.logp[node] for one, node in nodes], np.float32) if beam else None,
        parent_perturbed=(
            np.array([one.perturbed[node] for one, node in nodes], np.float32) if beam else None
        ),
        d2t=cache.model.d2t,
    )  # fmt: skip
    q = np.asarray(logits_ops.renorm(logits, None, **{k: v[rows] for k, v in filters.items()}))
    chosen = np.asarray(drawn.beam).tolist() if beam else None
    draws, logq = np.asarray(drawn.draws).tolist(), np.asarray(drawn.logq).tolist()
    perturbed = draws if drawn.perturbed is None else np.asarray(drawn.perturbed).tolist()
    first = 0
    for b, one in enumerate(trees):
        frontier, one.frontier = one.frontier, []
        for i, node in enumerate(frontier):
            one.q_row[node] = sum(map(len, one.q)) + i
        one.q.append(q[first : first + len(frontier)])
        for i, k in _order(frontier, one, chosen[b] if chosen else None, width, chains):
            if draws[first + i][k] >= 0:
                one.add(frontier[i], *(part[first + i][k] for part in (draws, logq, perturbed)))
        first += len(frontier)


def _order(
    frontier: Sequence[int], one: _Drawn, beam: Sequence[int] | None, width: int, chains: bool
) -> list[tuple[int, int]]:
    """Return which draws of a request count, as rows of its frontier and numbers of draws."""
    if beam is not None:
        return [divmod(at, width) for at in beam if at >= 0]
    return [
        (i, k)
        for i, node in enumerate(frontier)
        for k in range(one.times[node] if chains else width)
    ]
