# SPDX-License-Identifier: Apache-2.0
"""Messages of ``logits.penalise``, whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import logits
from test_errors import refuses, text, zeros
from test_errors_trees import ints

ROWS = zeros(2, 8)
HISTORY = {"tokens": ints(1, 2, 3), "indptr": ints(0, 1, 3)}
BIAS = {"bias_ids": ints(1), "bias_values": zeros(1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition": 0.0}, "'repetition' must be above 0 and finite, got 0"),
        ({"presence": float("inf")}, "'presence' must be finite, got inf"),
        (
            {"frequency": np.array([0, np.nan], np.float32)},
            "'frequency' must be finite, got nan at 1",
        ),
        ({"repetition": zeros(3)}, "'repetition' must have shape [R=2], got [3]"),
        ({"indptr": None}, "'indptr' must be given, got NULL"),
        ({"indptr": ints(0, 3)}, "'indptr' must have shape [R+1=3], got [2]"),
        ({"indptr": ints(1, 1, 3)}, "'indptr' must begin with 0, got 1"),
        ({"indptr": ints(0, 4, 3)}, "'indptr' must ascend, so be 4 or more at 2, got 3"),
        ({"indptr": ints(0, 1, 2)}, "'indptr' must end with T=3, got 2"),
        ({"tokens": None}, "'indptr' must be left out without tokens, got one"),
        ({"tokens": ints(1, 8, 3)}, "'tokens' must be below V=8, got 8 at 1"),
        ({"tokens": np.array([1, 2, 3])}, "'tokens' must have dtype int32, got int64"),
        ({"counts": ints(1, 2)}, "'counts' must have shape [T=3], got [2]"),
        ({"counts": ints(1, 2, -1)}, "'counts' must be 0 or more, got -1 at 2"),
        (
            {"tokens": None, "indptr": None, "counts": ints(1)},
            "'counts' must be left out without tokens, got some",
        ),
        ({"bias_ids": ints(8)}, "'bias_ids' must be below V=8, got 8 at 0"),
        ({"bias_values": None}, "'bias_values' must be given, got NULL"),
        ({"bias_values": zeros(2)}, "'bias_values' must have shape [M=1], got [2]"),
        ({"bias_ids": None}, "'bias_values' must be left out without bias_ids, got some"),
        (
            {"bias_ids": None, "bias_values": None, "bias_indptr": ints(0, 1, 1)},
            "'bias_indptr' must be left out without bias_ids, got one",
        ),
        ({"bias_indptr": ints(0, 1, 0)}, "'bias_indptr' must ascend, so be 1 or more at 2, got 0"),
        ({"bias_indptr": ints(0, 0, 0)}, "'bias_indptr' must end with M=1, got 0"),
        ({"out": zeros(2, 8, dtype=np.float16)}, "'out' must have dtype float32, got float16"),
        ({"out": zeros(2, 7)}, "'out' must have shape [R=2, V=8], got [2, 7]"),
        ({"out": ROWS[:]}, "'out' must not overlap 'logits', got shared memory"),
    ],
    ids=text,
)
def test_logits_penalise(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"out": np.full((2, 8), 9, np.float32)} | HISTORY | BIAS | options
    out = arguments["out"]
    before = out.copy()
    refuses(
        lambda: logits.penalise(ROWS, **arguments),
        ValueError,
        f"fewstep_logits_penalise: {message}",
    )
    assert np.array_equal(out, before)


def test_logits_penalise_takes_nothing() -> None:
    assert logits.penalise(zeros(0, 4), []).shape == (0, 4)
    assert np.array_equal(logits.penalise(ROWS), ROWS)
