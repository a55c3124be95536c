# SPDX-License-Identifier: Apache-2.0
"""What a generator asks of a drafter; `fewstep.drafters` re-exports it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fewstep._generate.request import Request

# The lossless rule for each law. ``match`` has the tokens that plain sampling has with the same
# seed, whatever was drafted; the number of accepted tokens is that of ``target_only`` in law.
RULES = {"deterministic": "match", "iid": "rrs", "without_replacement": "rrs"}


@dataclass
class Draft:
    """A tree of tokens that may follow a request's last one.

    Attributes
    ----------
    token, parent : array, shape (Q,), int32
        As for `fewstep.tree.verify`: node 0 is the request's last token, its parent is -1, and
        parents come before children.
    law : str
        How the tokens came about: "deterministic" (in any way that draws no random number that
        matters; always lossless), or "iid" or "without_replacement" (really drawn from `q`).
    rule : str, optional
        Of verification; by default `match` for deterministic drafts, `rrs` for others.
    q : array, shape (M, S), float32, optional
        Probabilities that tokens were drawn from.
    q_row : array, shape (Q,), int32, optional
        The row of `q` that a node's children were drawn from; row i for node i by default.
    q_ids : array, shape (S,), int32, optional
        Tokens of the columns of `q`, ascending; all of the vocabulary by default.
    draw_node, draw_indptr : array, int32, optional
        The ordered draws at each node, where some were drawn twice; see `fewstep.tree.verify`.
    score : array, shape (Q,), float32, optional
        How likely each node is thought to be on the accepted path, such as the product of the
        drafter's probabilities; says which nodes of a deterministic draft to leave out where
        verifying all costs more than it brings. Without, what nodes of that number brought before.
    index : array, shape (Q,), int32, optional
        Each node's number, where nodes have one that means the same from draft to draft, such as
        the place in a template; its index in the draft by default.
    """

    token: NDArray[np.int32]
    parent: NDArray[np.int32]
    law: str = "deterministic"
    rule: str | None = None
    q: Any = None
    q_row: NDArray[np.int32] | None = None
    q_ids: NDArray[np.int32] | None = None
    draw_node: NDArray[np.int32] | None = None
    draw_indptr: NDArray[np.int32] | None = None
    score: NDArray[np.float32] | None = None
    index: NDArray[np.int32] | None = None

    def subset(self, wanted: Iterable[bool] | bytes) -> Draft:
        """Return what is left of a deterministic draft without some nodes and all below them.

        Parameters
        ----------
        wanted : iterable of bool, length Q
            Whether to keep each node; the root always stays.

        Returns
        -------
        Draft
        """
        kept, parent = _kept(np.asarray(self.parent, np.int32).tobytes(), bytes(wanted))
        if len(parent) == len(self.parent):
            return self
        if isinstance(kept, slice):  # they keep their own numbers
            return self.head(len(parent))
        return Draft(
            self.token[kept],
            parent,
            rule=self.rule,
            score=None if self.score is None else self.score[kept],
            index=kept if self.index is None else self.index[kept],
        )

    def head(self, nodes: int) -> Draft:
        """Return the first nodes of a deterministic draft.

        Parameters
        ----------
        nodes : int
            How many, 1 or more.

        Returns
        -------
        Draft
        """
        return Draft(
            self.token[:nodes],
            self.parent[:nodes],
            rule=self.rule,
            score=None if self.score is None else self.score[:nodes],
            index=None if self.index is None else self.index[:nodes],
        )


@lru_cache(maxsize=256)  # drafts change from call to call, and their trees hardly
def _kept(parent: bytes, wanted: bytes) -> tuple[slice | NDArray[np.int32], NDArray[np.int32]]:
    """Return which nodes of a tree stay and their parents; see `Draft.subset`."""
    place = {-1: -1}  # of the nodes that are kept
    parents: list[int] = []
    for node, (keep, up) in enumerate(
        zip(wanted, np.frombuffer(parent, np.int32).tolist(), strict=True)
    ):
        if (keep and up in place) or not node:
            place[node] = len(parents)
            parents.append(place[up])
    nodes = list(place)[1:]
    is_start = nodes[-1] == len(nodes) - 1
    kept = slice(len(nodes)) if is_start else np.array(nodes, np.int32)
    return kept, np.array(parents, np.int32)


class Seen(NamedTuple):
    """What a call of the target showed; valid during `Drafter.observe` only.

    Attributes
    ----------
    requests : sequence of Request, length B
        Their tokens are still those before the call.
    token, parent : array, shape (N,), int32
        The nodes that were run, request after request.
    indptr : array, shape (B + 1,), int32
    logits : array, shape (N, V)
        The target's after each node.
    path : array, shape (B, D), int32
        Accepted nodes of each request, the root not among them.
    accepted, next_token : array, shape (B,), int32
    hidden : array, shape (N, E), or None
        Last hidden states, for drafters whose `needs_hidden` is true.
    seconds : float
        That the call took.
    """

    requests: Sequence[Request]
    token: NDArray[np.int32]
    parent: NDArray[np.int32]
    indptr: NDArray[np.int32]
    logits: Any
    path: NDArray[np.int32]
    accepted: NDArray[np.int32]
    next_token: NDArray[np.int32]
    hidden: Any = None
    seconds: float = 0.0


class Known(NamedTuple):
    """Drafts that a model's device can make alone: a tree of fixed shape, filled from a table.

    A drafter with a method ``known()`` that returns this (None as long as there is no table) may be
    left out of calls; see `fewstep.transformers.PagedModel`.

    Attributes
    ----------
    parent, rank : array, shape (Q,), int32
        As for `fewstep.tree.from_template`.
    table : array, shape (V, K), int32
        The best successors of each token, which `fewstep.draft.recycle` renews.
    fresh : array, shape (N,), int64
        Its rows that have changed since they were last asked for, but by calls of the target.
    """

    parent: NDArray[np.int32]
    rank: NDArray[np.int32]
    table: NDArray[np.int32]
    fresh: NDArray[np.int64]


class Ahead(NamedTuple):
    """What several calls of the target gave that the host did not wait for.

    Attributes
    ----------
    tokens : array, shape (C, B, D + 1), int32
        Of each call and sequence the accepted drafts and the token after them, -1 behind; -1 for
        that token where the logits gave no law.
    accepted : array, shape (C, B), int32
        How many drafts.
    ends : array, shape (C, B), int32
        The last accepted node.
    """

    tokens: NDArray[np.int32]
    accepted: NDArray[np.int32]
    ends: NDArray[np.int32]


@runtime_checkable
class Drafter(Protocol):
    """Something that guesses how texts go on.

    What it guesses changes how fast a generator is, never which tokens come in which law: with one
    condition, that tokens called "iid" or "without_replacement" were drawn that way from the `q` of
    the draft. A method that raises, and a draft that is no tree, cost that draft alone.
    """

    def start(self, request: Request) -> None:
        """Take note of a request that begins; its tokens are the prompt."""

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> Sequence[Draft | None]:
        """Draft for each request.

        Parameters
        ----------
        requests : sequence of Request, length B
        limits : sequence of int, length B
            Depth below the root from which on nodes are of no use, because the request ends.

        Returns
        -------
        sequence of Draft or None, length B
            None for a request that is better run without.
        """

    def observe(self, seen: Seen) -> None:
        """Learn from what the target said."""

    def stop(self, request: Request) -> None:
        """Forget a request that has ended."""
