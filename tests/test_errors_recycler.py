# SPDX-License-Identifier: Apache-2.0
"""Messages of `fewstep.draft.Recycler` and its drafter, whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewstep.draft import Recycler
from fewstep.drafters import ContextRecycling

CREATE, READ = "fewstep_recycler_create: ", "fewstep.draft.Recycler.read: "
OBSERVE, PROPOSE = "fewstep_recycler_observe: ", "fewstep_recycler_propose: "


def whole(message: str) -> str:
    return f"^{re.escape(message)}$"


def table(**size: int) -> Recycler:
    return Recycler(**({"order": 2, "width": 2} | size))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: table(order=0), CREATE + "'order' must lie in [1, 4], got 0"),
        (lambda: table(order=5), CREATE + "'order' must lie in [1, 4], got 5"),
        (lambda: table(width=0), CREATE + "'width' must lie in [1, 16], got 0"),
        (lambda: table(width=17), CREATE + "'width' must lie in [1, 16], got 17"),
        (lambda: table(capacity=0), CREATE + "'capacity' must lie in [1, 2147483647], got 0"),
        (
            lambda: table(capacity=2**31),
            CREATE + "'capacity' must lie in [1, 2147483647], got 2147483648",
        ),
        (lambda: table().read([1, -2]), READ + "'tokens' must lie in [0, 2147483647], got -2"),
        (
            lambda: table().read([0.5]),
            READ + "'tokens' must be integers of shape [N], got float64 of shape [1]",
        ),
        (
            lambda: table().propose([-1]),
            "fewstep.draft.Recycler.propose: 'context' must lie in [0, 2147483647], got -1",
        ),
        (lambda: table().propose([1], depth=0), PROPOSE + "'depth' must be 1 or more, got 0"),
        (
            lambda: table().propose([1], max_nodes=0),
            PROPOSE + "'capacity' must be 1 or more, got 0",
        ),
        (
            lambda: table().propose([1], least=-0.5),
            PROPOSE + "'least' must lie in [0, 1], got -0.5",
        ),
        (lambda: table().propose([1], least=1.5), PROPOSE + "'least' must lie in [0, 1], got 1.5"),
        (
            lambda: table().propose([1], least=float("nan")),
            PROPOSE + "'least' must lie in [0, 1], got nan",
        ),
        (lambda: ContextRecycling(7), CREATE + "'order' must lie in [1, 4], got 7"),
        (lambda: ContextRecycling(width=0), CREATE + "'width' must lie in [1, 16], got 0"),
        (
            lambda: ContextRecycling(capacity=-1),
            CREATE + "'capacity' must lie in [1, 2147483647], got -1",
        ),
        (lambda: ContextRecycling(depth=0), PROPOSE + "'depth' must be 1 or more, got 0"),
        (lambda: ContextRecycling(max_nodes=0), PROPOSE + "'capacity' must be 1 or more, got 0"),
        (lambda: ContextRecycling(least=2.0), PROPOSE + "'least' must lie in [0, 1], got 2"),
    ],
)
def test_numbers_and_texts(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=whole(message)):
        call()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"token": [1, -1, 3]}, "'token' must be 0 or more, got -1 at 1"),
        ({"token": [1, 2]}, "'parent' must have shape [2], got [3]"),
        ({"token": [[1, 2, 3]]}, "'token' must have shape [3], got [1, 3]"),
        ({"parent": [0, 0, -1]}, "'parent' must be -1 for a root, got 0 at 0"),
        ({"parent": [-1, 1, -1]}, "'parent' must be an earlier node of its tree, got 1 at 1"),
        ({"parent": [-1, -1, -1]}, "'parent' must be an earlier node of its tree, got -1 at 1"),
        ({"indptr": [0, 2, 2]}, "'indptr' must go from 0 to the rows, 3, got 0 and 2"),
        ({"indptr": [1, 2, 3]}, "'indptr' must go from 0 to the rows, 3, got 1 and 3"),
        ({"indptr": [0, 4, 3]}, "'indptr' must not fall, got 3 after 4"),
        ({"indptr": []}, "'indptr' must have shape [1], got [0]"),
        ({"context": None}, "'context' must not be NULL"),
        ({"context": [[5], [-2]]}, "'context' must be -1 or more, got -2 at [1, 0]"),
        ({"context": [[5, 6], [7, 8]]}, "'context' must have shape [2, 1], got [2, 2]"),
        ({"ids": [[4, 5], [6, -2], [7, 8]]}, "'ids' must be -1 or more, got -2 at [1, 1]"),
        ({"ids": [[4, 5], [6, 7], [8, 8]]}, "'ids' must differ in a row, got 8 again at [2, 1]"),
        ({"ids": [[4], [5], [6]]}, "'ids' must have shape [3, 2], got [3, 1]"),
        (
            {"logits": [[0, 0], [np.nan, 0], [0, 0]]},
            "'logits' must be finite where there is a token, got nan at [1, 0]",
        ),
        (
            {"logits": [[0, 0], [0, 0], [np.inf, 0]]},
            "'logits' must be finite where there is a token, got inf at [2, 0]",
        ),
        ({"logits": [0, 0]}, "'logits' must have shape [3, 2], got [2]"),
        ({"path": [[2], [0]]}, "'path' must go from node to child, got 2 at [0, 0]"),
        ({"path": [[0], [0]]}, "'path' must go from node to child, got 0 at [0, 0]"),
        ({"path": [[1, 1], [0, 0]], "accepted": [2, 0]},
         "'path' must go from node to child, got 1 at [0, 1]"),
        ({"path": [1, 0]}, "'path' must have shape [2, 0], got [2]"),
        ({"accepted": [2, 0]}, "'accepted' must lie in [0, 1], got 2 at 0"),
        ({"accepted": [1, -1]}, "'accepted' must lie in [0, 1], got -1 at 1"),
        ({"indptr": [0, 3, 3], "parent": [-1, 0, 1], "accepted": [1, 1]},
         "'accepted' must lie in [0, 0], got 1 at 1"),
        ({"accepted": [1]}, "'accepted' must have shape [2], got [1]"),
        ({"next_token": [4, -2]}, "'next_token' must be -1 or more, got -2 at 1"),
        ({"next_token": [4]}, "'next_token' must have shape [2], got [1]"),
    ],
)  # fmt: skip
def test_rows(changed: dict[str, Any], message: str) -> None:
    """Nothing has been kept, of trees before the wrong one neither."""
    rows: dict[str, Any] = {
        "token": [1, 2, 3], "parent": [-1, 0, -1], "indptr": [0, 2, 3], "context": [[5], [-1]],
        "ids": [[4, 5], [6, 7], [8, -1]], "logits": np.zeros((3, 2)), "path": [[1], [0]],
        "accepted": [1, 0], "next_token": [4, 9],
    }  # fmt: skip
    known = table()
    with pytest.raises(ValueError, match=whole(OBSERVE + message)):
        known.observe(**(rows | changed))
    assert len(known) == 0
    known.observe(**rows)
    assert len(known) == 5


@pytest.mark.parametrize("name", ["token", "ids", "next_token"])
def test_rows_of_other_numbers(name: str) -> None:
    rows: dict[str, Any] = {
        "token": [1], "parent": [-1], "indptr": [0, 1], "context": [[5]], "ids": [[4, 5]],
        "logits": np.zeros((1, 2)), "path": [[0]], "accepted": [0], "next_token": [4],
    }  # fmt: skip
    shape = list(np.shape(rows[name]))
    for wrong, dtype in ((1.5, "float64"), (2**31, "int64")):
        message = (
            f"fewstep.draft.Recycler.observe: '{name}' must be integers of 32 bits, got {dtype} of "
            f"shape {shape}"
        )
        with pytest.raises(ValueError, match=whole(message)):
            table().observe(**(rows | {name: np.full(shape, wrong)}))


def test_a_refused_text_changes_nothing() -> None:
    known = table()
    with pytest.raises(ValueError, match="must lie in"):
        known.read([1, 2, -3])
    assert len(known) == 0
