# SPDX-License-Identifier: Apache-2.0
"""Rows of logits more than 2^31 elements apart: no offset is of 32 bits.

The memory is reserved, not filled: only the rows that are read take any.
"""

from __future__ import annotations

import numpy as np
import pytest

import fewstep

V = 1000
PITCH = 2**30 + 64  # elements from row to row: the third row is past 2^31


@pytest.fixture
def logits() -> np.ndarray:
    """Three rows, each with a token of its own that nearly all of the law is on."""
    memory = np.zeros(2 * PITCH + V, np.float16)
    rows = np.lib.stride_tricks.as_strided(memory, (3, V), (2 * PITCH, 2))
    rows[:] = -20.0
    rows[[0, 1, 2], [3, 500, 999]] = 20.0
    return rows


@pytest.mark.large
def test_sample_and_best_tokens(logits: np.ndarray) -> None:
    wanted = [3, 500, 999]
    assert fewstep.logits.sample(logits, [1, 2, 3], 0).tolist() == wanted
    assert fewstep.logits.top_k(logits, 1).ids[:, 0].tolist() == wanted
    assert fewstep.logits.gumbel_top_k(logits, 1, [1, 2, 3], 0).ids[:, 0].tolist() == wanted
    out = np.zeros((3, V), np.float32)
    fewstep.logits.renorm(logits, out=out)
    assert out.argmax(1).tolist() == wanted
    codes = np.full(3, 1 << 62, np.int64)
    assert fewstep.logits.sample_arithmetic(logits, codes).tokens.tolist() == wanted


@pytest.mark.large
def test_trees_grow_from_the_right_row(logits: np.ndarray) -> None:
    wanted, seeds, places = [3, 500, 999], np.arange(3), np.zeros(3, np.int32)
    grown = fewstep.tree.expand(np.zeros(3, np.float32), logits, 1)
    assert grown.ids.ravel().tolist() == wanted
    indptr = np.arange(4, dtype=np.int32)
    for law in ("iid", "without_replacement"):
        drawn = fewstep.tree.sample_children(logits, law, 1, seeds, places, indptr=indptr)
        assert drawn.draws.ravel().tolist() == wanted


@pytest.mark.large
def test_penalties_touch_the_right_row(logits: np.ndarray) -> None:
    tokens, indptr = np.array([3, 500, 999], np.int32), np.array([0, 1, 2, 3], np.int32)
    fewstep.logits.penalise(logits, tokens, indptr, presence=5.0, out=logits)
    assert logits[[0, 1, 2], [3, 500, 999]].tolist() == [15.0] * 3
    assert (np.sort(logits, 1)[:, :-1] == -20.0).all()


@pytest.mark.large
@pytest.mark.parametrize("rule", ["greedy", "chain", "block", "typical"])
def test_verify(logits: np.ndarray, rule: str) -> None:
    parent, indptr = np.array([-1, 0, 1], np.int32), np.array([0, 3], np.int32)
    token = np.array([0, 3, 500], np.int32)
    found = fewstep.tree.verify(parent, indptr, token, logits, [1], 0, rule=rule)
    assert found.path.tolist() == [[1, 2]]
    assert found.next_token.tolist() == [999]


@pytest.mark.large
def test_a_row_of_more_tokens_than_ids_is_refused() -> None:
    row = np.zeros((1, 2**31), np.float16)  # reserved, never touched
    message = r"'logits' must have less than 2\^31 per row, got 2147483648$"
    for call in (
        lambda: fewstep.logits.sample(row, [1]),
        lambda: fewstep.logits.top_k(row, 1),
        lambda: fewstep.logits.renorm(row, 1),
    ):
        with pytest.raises(ValueError, match=message):
            call()
