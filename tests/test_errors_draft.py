# SPDX-License-Identifier: Apache-2.0
"""Messages of the draft family, whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewstep import draft
from fewstep.draft import Ngram, Trigram


def whole(message: str) -> str:
    return f"^{re.escape(message)}$"


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("tokens", "ids", "message"),
    [
        (ints(0, 4), ints([0], [0]), "'tokens' must lie in [0, 4), got 4 at 1"),
        (ints(-1), ints([0]), "'tokens' must lie in [0, 4), got -1 at 0"),
        (ints(0, 1), ints([0], [4]), "'top_ids' must lie in [-1, 4), got 4 at [1, 0]"),
        (ints(0), ints([0, 1]), "'top_ids' must have shape [N=1, K=1], got [1, 2]"),
        (np.zeros(1, np.int64), ints([0]), "'tokens' must have dtype int32, got int64"),
    ],
)
def test_draft_recycle(tokens: np.ndarray, ids: np.ndarray, message: str) -> None:
    table = np.full((4, 1), 3, np.int32)
    with pytest.raises(ValueError, match=whole(f"fewstep_draft_recycle: {message}")):
        draft.recycle(table, tokens, ids)
    assert (table == 3).all(), "nothing is written"


def test_draft_recycle_refuses_shared_memory() -> None:
    table = np.zeros((4, 1), np.int32)
    message = "fewstep_draft_recycle: 'table' must not overlap 'top_ids', got shared memory"
    with pytest.raises(ValueError, match=whole(message)):
        draft.recycle(table, ints(0), table[1:2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ngram(0, 2), "fewstep_ngram_create: 'n_min' must be 1 or more, got 0"),
        (lambda: Ngram(3, 2), "fewstep_ngram_create: 'n_max' must lie in [n_min=3, 64], got 2"),
        (lambda: Ngram(1, 65), "fewstep_ngram_create: 'n_max' must lie in [n_min=1, 64], got 65"),
        (
            lambda: Ngram().append([1, -2]),
            "fewstep.draft.Ngram.append: 'tokens' must lie in [0, 2147483647], got -2",
        ),
        (
            lambda: Ngram().append([1, 2**31]),
            "fewstep.draft.Ngram.append: 'tokens' must lie in [0, 2147483647], got 2147483648",
        ),
        (
            lambda: Ngram().append([0.5]),
            "fewstep.draft.Ngram.append: 'tokens' must be integers of shape [N], got float64 of "
            "shape [1]",
        ),
        (
            lambda: Ngram().propose([[1]]),
            "fewstep.draft.Ngram.propose: 'context' must be integers of shape [N], got int64 of "
            "shape [1, 1]",
        ),
        (
            lambda: Ngram().propose(max_tokens=0),
            "fewstep_ngram_propose: 'max_tokens' must be 1 or more, got 0",
        ),
        (
            lambda: Ngram().propose(branches=0),
            "fewstep_ngram_propose: 'branches' must be 1 or more, got 0",
        ),
        (
            lambda: Ngram().propose(max_nodes=0),
            "fewstep_ngram_propose: 'capacity' must be 1 or more, got 0",
        ),
        (
            lambda: Trigram().propose([1, 2], depth=0),
            "fewstep_trigram_propose: 'depth' must be 1 or more, got 0",
        ),
        (
            lambda: Trigram().propose([1, 2], width=0),
            "fewstep_trigram_propose: 'width' must be 1 or more, got 0",
        ),
        (
            lambda: Trigram().propose([1, 2], iterations=-1),
            "fewstep_trigram_propose: 'iterations' must be 1 or more, got -1",
        ),
        (
            lambda: Trigram().propose([1, 2], exploration=-0.5),
            "fewstep_trigram_propose: 'exploration' must be 0 or more and finite, got -0.5",
        ),
        (
            lambda: Trigram().propose([1, 2], exploration=float("nan")),
            "fewstep_trigram_propose: 'exploration' must be 0 or more and finite, got nan",
        ),
        (
            lambda: Trigram().observe([3, -1]),
            "fewstep.draft.Trigram.observe: 'tokens' must lie in [0, 2147483647], got -1",
        ),
    ],
)
def test_drafters(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=whole(message)):
        call()


def test_a_refused_text_changes_nothing() -> None:
    text, counts = Ngram(), Trigram()
    with pytest.raises(ValueError, match="must lie in"):
        text.append([1, 2, -3])
    with pytest.raises(ValueError, match="must lie in"):
        counts.observe([1, 2, 3, -3])
    assert len(text) == len(counts) == 0
