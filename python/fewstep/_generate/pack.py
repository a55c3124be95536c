# SPDX-License-Identifier: Apache-2.0
"""Drafts of a batch, checked, cut and packed one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, count, groupby
from operator import lt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep._generate.request import Request
from fewstep.drafters._protocol import RULES, Draft
from fewstep.tree import LAWS
from fewstep.tree import RULES as ALL_RULES

MAX_NODES = 256  # rows of one request that tree.attention takes

Index = NDArray[np.int32]
ROOT = np.array([-1], np.int32)
DETERMINISTIC = LAWS.index("deterministic")
NO_DRAWS = (None,) * 6


class Group(NamedTuple):
    """Neighbours in a batch that one call verifies, by the numbers of their rule and law."""

    begin: int
    end: int
    rule: int
    law: int


class Layout(NamedTuple):
    """What a batch's trees are but for their tokens; of all calls with such trees.

    `begins` are the numbers of `indptr`; `sizes` says how many rows each request has, `inner`
    which rows have children, `deepest` how far below its root a node lies at most. Where all trees
    are chains, whose rows are those of any text, there are no `bits` and `depth`.
    """

    groups: list[Group]
    parent: Index
    indptr: Index
    begins: list[int]
    sizes: Index
    depth: Index | None
    bits: NDArray[np.uint32] | None
    inner: list[bool]
    deepest: int


class Block(NamedTuple):
    """The rows that a call of the target runs: a tree for each request."""

    requests: list[Request]
    drafts: list[Draft]
    token: Index
    layout: Layout


def root_alone(request: Request) -> Draft:
    """Return the draft of a request that nothing was drafted for."""
    return Draft(np.array(request.tokens[-1:], np.int32), ROOT)


def checked(draft: Draft, request: Request, n_vocab: int) -> Draft:
    """Return a draft that can be run: a tree below the last token, of tokens that there are.

    Raises
    ------
    ValueError
        It is no tree, or one that was drawn from a law and holds a token that does not exist.
    """
    if draft.law == "deterministic" and draft.rule is None:
        arrays = draft.token, draft.parent, draft.score, draft.index
        if _core.draft_fits(*arrays, request.tokens[-1], n_vocab, MAX_NODES):
            return draft
    # What can be made one, and what is wrong.
    token, parent = np.asarray(draft.token, np.int32), np.asarray(draft.parent, np.int32)
    if token.ndim != 1 or token.shape != parent.shape or not token.size:
        raise ValueError(f"shapes {list(token.shape)} and {list(parent.shape)} are no tree's")
    if token is not draft.token or parent is not draft.parent:
        draft = replace(draft, token=token, parent=parent)
    for given, dtype in ((draft.score, np.float32), (draft.index, np.int32)):
        if given is not None and np.asarray(given, dtype).shape != token.shape:
            raise ValueError(f"{np.shape(given)} scores or numbers of {token.size} nodes")
    check_parents(parent.tolist())
    # As a list: trees are small, and a look at an array costs as much as one at a hundred numbers.
    tokens = token.tolist()
    if tokens[0] != request.tokens[-1]:
        raise ValueError(f"node 0 is token {tokens[0]}, not the last one, {request.tokens[-1]}")
    if draft.rule is not None and draft.rule not in ALL_RULES:
        raise ValueError(f"rule {draft.rule!r}")
    least, most, nodes = min(tokens), max(tokens), len(tokens)
    fits = nodes <= MAX_NODES and least >= 0 and most < n_vocab
    if draft.law != "deterministic":
        if draft.law not in RULES or draft.q is None:
            raise ValueError(f"law {draft.law!r} with{'out' if draft.q is None else ''} q")
        if not fits:
            raise ValueError(f"{nodes} drawn tokens from {least} to {most}")
        q = np.asarray(draft.q)
        if not (q.min() >= 0 and q.max() <= 1.001):  # NaN as well
            raise ValueError(f"q from {q.min()} to {q.max()}")
    elif not fits:
        good = [0 <= one < n_vocab for one in tokens[:MAX_NODES]]
        good += [False] * (nodes - len(good))
        return draft.subset(good)
    return draft


def check_parents(parents: list[int]) -> None:
    """Raise ValueError unless they are a tree's."""
    if parents[0] != -1 or min(parents[1:], default=0) < 0:
        raise ValueError("node 0 is not the root, or not the only one")
    if not all(map(lt, parents, count())):
        raise ValueError("a parent does not come before its child")


def ends_of(counts: Iterable[int]) -> list[int]:
    """Return where rows begin and end that lie one after the other."""
    return list(accumulate(counts, initial=0))


def pack(requests: Sequence[Request], drafts: Sequence[Draft]) -> Block:
    """Put the trees of a batch one after the other, those of one rule and law side by side."""
    kinds = tuple([(draft.rule or RULES[draft.law], draft.law) for draft in drafts])
    if len(kinds) > 1 and len(set(kinds)) > 1:
        order = sorted(range(len(drafts)), key=kinds.__getitem__)
        requests, drafts = [requests[i] for i in order], [drafts[i] for i in order]
        kinds = tuple(sorted(kinds))
    token = drafts[0].token
    if len(drafts) > 1:
        token = np.concatenate([draft.token for draft in drafts])
    layout = laid_out(tuple([draft.parent.tobytes() for draft in drafts]), kinds)
    return Block(list(requests), list(drafts), token, layout)


# Drafts change from call to call, and their trees hardly: a chain has few lengths, a template
# is one tree.
@lru_cache(maxsize=64)
def laid_out(parents: tuple[bytes, ...], kinds: tuple[tuple[str, str], ...]) -> Layout:
    """Lay out trees, whose parents are given as memory, with their rules and laws."""
    groups: list[Group] = []
    for kind, same in groupby(range(len(kinds)), kinds.__getitem__):
        begin, *others = same
        rule, law = ALL_RULES.index(kind[0]), LAWS.index(kind[1])
        groups.append(Group(begin, begin + 1 + len(others), rule, law))
    parent, indptr, begins, sizes, depth, bits, inner, deepest = _core.tree_layout(parents)
    return Layout(groups, parent, indptr, begins, sizes, depth, bits, inner, deepest)


def draws(block: Block, group: Group) -> tuple[Any, ...]:
    """Return what verification needs to know of how a group's drafts were drawn from a law.

    ``draft``, ``draft_ids``, ``draft_row``, ``draw_indptr``, ``draw_node`` and ``draw_weight`` of
    `fewstep.tree.verify`.
    """
    drafts = block.drafts[group.begin : group.end]
    rows, nodes, ends, first_row, first_draw = [], [], [np.zeros(1, np.int32)], 0, 0
    for draft in drafts:
        own = np.arange(len(draft.token), dtype=np.int32) if draft.q_row is None else draft.q_row
        rows.append(own + first_row)
        first_row += len(draft.q)
        if draft.draw_indptr is not None and draft.draw_node is not None:
            nodes.append(draft.draw_node)
            ends.append(draft.draw_indptr[1:] + first_draw)
            first_draw += len(draft.draw_node)
    q = drafts[0].q if len(drafts) == 1 else np.concatenate([np.asarray(d.q) for d in drafts])
    ids = drafts[0].q_ids
    return (
        q,
        None if ids is None else np.asarray(ids, np.int32).reshape(1, -1),
        np.concatenate(rows).astype(np.int32),
        np.concatenate(ends).astype(np.int32) if nodes else None,
        np.concatenate(nodes).astype(np.int32) if nodes else None,
        None,
    )
