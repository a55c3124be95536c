# SPDX-License-Identifier: Apache-2.0
"""`_core.Budget` and `_core.CallCost` against plain Python, call by call, and their messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewstep import _core
from fewstep.drafters import Draft
from reference import budget as reference

Rng = np.random.Generator


def tree(rng: Rng, kind: str, most: int = 24) -> Draft:
    """Draw a draft: with scores, numbers of its own, or neither, of one of few trees."""
    nodes = int(rng.integers(1, most))
    parent = np.array([-1, *(int(rng.integers(0, i)) for i in range(1, nodes))], np.int32)
    draft = Draft(np.arange(nodes, dtype=np.int32), parent)
    if kind == "scored":  # some alike, some out of range
        draft.score = rng.choice([0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.5, -0.1], nodes).astype(
            np.float32
        )
    elif kind == "numbered":
        draft.index = rng.choice(4000, nodes, replace=False).astype(np.int32) - 1000
    elif kind == "drawn":
        draft.law, draft.q = "iid", np.ones((nodes, 2), np.float32)
    else:  # so that trees come again
        nodes = int(rng.integers(1, 4))
        draft = Draft(np.arange(9, dtype=np.int32), np.arange(-1, 8, dtype=np.int32) // nodes)
    return draft


def cut_of(drafts: list[Draft], kept: list[int | bytes | None] | None) -> list[list[bool]]:
    """Return what `_core.Budget.cut` says as a flag of each node."""
    kept = [None] * len(drafts) if kept is None else kept
    flags = []
    for draft, own in zip(drafts, kept, strict=True):
        nodes = len(draft.token)
        if own is None:
            flags.append([True] * nodes)
        elif isinstance(own, int):
            flags.append([i < own for i in range(nodes)])
        else:
            flags.append([bool(flag) for flag in own])
    return flags


@pytest.mark.parametrize("row", [0.25, 2.0])  # what a row takes of a call's 3 seconds
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "kinds", [["scored"], ["numbered"], ["plain"], ["scored", "numbered", "plain", "drawn"]]
)
def test_calls_are_those_of_the_reference(kinds: list[str], batch: int, row: float) -> None:
    rng = np.random.default_rng(8)
    ours, cost = _core.Budget(), _core.CallCost()
    theirs, their_cost = reference.Budget(), reference.CallCost()
    cuts = set()
    for call in range(900):
        if call % 97 == 96:
            ours.doubt()
            theirs.doubt()
        drafts = [tree(rng, str(rng.choice(kinds))) for _ in range(batch)]
        drafting, trial = float(rng.random()), call % 50 < 7
        flags = cut_of(drafts, ours.cut(cost, drafts, drafting, trial))
        assert flags == theirs.cut(their_cost, drafts, drafting, trial), call
        drafts = [
            draft if all(own) else draft.subset(own)
            for draft, own in zip(drafts, flags, strict=True)
        ]
        rows = sum(len(draft.token) for draft in drafts)
        cuts.add(rows)
        seconds = 3 + row * rows + float(rng.random())
        cost.add(rows, seconds)
        their_cost.add(rows, seconds)
        # The way to some node, the more likely the deeper.
        paths: list[list[int]] = []
        for draft in drafts:
            node, path = int(rng.integers(0, len(draft.token))), []
            while node:
                path.insert(0, node)
                node = int(draft.parent[node])
            paths.append(path)
        known = their_cost.curve(batch) if their_cost.count(batch) else None
        expected = (*theirs.learn(drafts, paths), known[batch] if known else 0.0)
        assert ours.learn(cost, drafts, paths) == expected, call
    assert len(cuts) > 3


def test_curves_are_those_of_the_reference() -> None:
    rng = np.random.default_rng(8)
    ours, theirs = _core.CallCost(), reference.CallCost()
    for call in range(2000):
        rows = int(rng.integers(1, 12 if call % 900 < 800 else 3))  # some sizes are forgotten
        seconds = float(rng.random()) + rows
        ours.add(rows, seconds)
        theirs.add(rows, seconds)
        most = int(rng.integers(0, 40))
        curve = theirs.curve(most)
        assert ours.curve(most) == (None if curve is None else curve[: most + 1]), call
        assert [ours.count(n) for n in range(13)] == [theirs.count(n) for n in range(13)]


def test_a_size_of_400_calls_ago_is_forgotten() -> None:
    cost = _core.CallCost()
    for call in range(1, 801):
        assert cost.count(9) == (call > 400)
        cost.add(9 if call == 400 else 1, 1.0)
    assert (cost.count(9), cost.count(1)) == (0, 8)


@pytest.mark.parametrize("first", [None, 0, 5000])  # of the nodes' numbers, if any
def test_counts_stay_finite(first: int | None) -> None:
    """The unit of counts is above 1e100 after 22,912 calls; shares are as before then."""
    budget, cost = _core.Budget(), _core.CallCost()
    for rows in (1, 2, 9):
        cost.add(rows, 1.0 + rows / 10)
    draft = Draft(np.arange(9, dtype=np.int32), np.arange(-1, 8, dtype=np.int32))
    draft.index = None if first is None else draft.token + first
    sizes = []
    for call in range(24400):
        kept = budget.cut(cost, [draft], 0.0, False)
        sizes.append(9 if kept is None else kept[0])
        budget.learn(cost, [draft], [[1, 2, 3] if call < 24000 else []])
    assert set(sizes[22000:24000]) == set(sizes[23500:24000]) == {1, 4, 9}
    assert np.median(sizes[22900:22930]) == 4
    assert np.median(sizes[24300:]) == 1  # counts that are no longer so are forgotten


def draft(**changed: Any) -> Draft:
    nodes: dict[str, Any] = {"token": [5, 6, 7], "parent": [-1, 0, 1]}
    arrays = {
        name: np.array(value, np.float32 if name == "score" else np.int32)
        for name, value in (nodes | changed).items()
    }
    return Draft(**arrays)


def cut(**changed: Any) -> object:
    return _core.Budget().cut(_core.CallCost(), [draft(**changed)], 0.0, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _core.CallCost().add(0, 1.0),
            "fewstep_call_cost_add: 'rows' must lie in [1, 16777216], got 0",
        ),
        (
            lambda: _core.CallCost().add(1, np.nan),
            "fewstep_call_cost_add: 'seconds' must be finite, got nan",
        ),
        (
            lambda: _core.CallCost().curve(-1),
            "fewstep_call_cost_curve: 'most' must lie in [0, 16777216], got -1",
        ),
        (
            lambda: cut(parent=[0, 0, 1]),
            "fewstep_budget_cut: 'parent' must lie in [-1, -1], got 0",
        ),
        (lambda: cut(parent=[-1, 0, 2]), "fewstep_budget_cut: 'parent' must lie in [0, 1], got 2"),
        (
            lambda: cut(score=[1.0, 0.5]),
            "fewstep_budget_draft: 'score' must have a number of each of 3 nodes, got 2",
        ),
        (
            lambda: cut(index=[0, 1, 2, 3]),
            "fewstep_budget_draft: 'index' must have a number of each of 3 nodes, got 4",
        ),
        (
            lambda: _core.Budget().learn(_core.CallCost(), [draft()], [[1, 3]]),
            "fewstep_budget_learn: 'path' must lie in [0, 2], got 3",
        ),
        (
            lambda: _core.Budget().learn(_core.CallCost(), [], []),
            "fewstep_budget_learn: 'batch' must be 1 or more, got 0",
        ),
    ],
)
def test_messages(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
