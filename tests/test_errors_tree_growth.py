# SPDX-License-Identifier: Apache-2.0
"""Every error of ``tree.expand`` and ``tree.rerank``: type and whole message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import _core, tree
from test_errors import Call, refuses, text, zeros
from test_errors_trees import ints

C, X = zeros(3), zeros(3, 8)
MANY = ints(0, 1, 3)


def wide(*shape: int) -> Any:
    return zeros(*shape, dtype=np.int32)


EXPAND: list[tuple[Call, str]] = [
    (lambda: tree.expand(zeros(2), X, 2), "'logits' must have shape [R=2, V], got [3, 8]"),
    (
        lambda: tree.expand(C.astype(np.float64), X, 2),
        "'cum_logp' must have dtype float32, got float64",
    ),
    (
        lambda: tree.expand(C, X.astype(np.float64), 2),
        "'logits' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (lambda: tree.expand(C, X, 0), "'ids' must have 1 to 64 children per row, got 0"),
    (lambda: tree.expand(C, X, 65), "'ids' must have 1 to 64 children per row, got 65"),
    (
        lambda: tree.expand(C, X, 2, beam=65),
        "'beam_ids' must have 1 to 64 children per row, got 65",
    ),
    (lambda: tree.expand(C, X, 2, indptr=ints(0, 2)), "'indptr' must end with R=3, got 2"),
    (lambda: tree.expand(C, X, 2, d2t=ints(1, 2)), "'d2t' must have shape [V=8], got [2]"),
    (lambda: tree.expand(C, X, 2, ids=wide(3, 3)), "'logp' must have shape [R=3, K=3], got [3, 2]"),
    (
        lambda: tree.expand(C, X, 2, indptr=MANY, beam_ids=wide(1, 2)),
        "'beam_ids' must have shape [B=2, M], got [1, 2]",
    ),
    (lambda: tree.expand(C, X, 2, status=wide(2)), "'status' must have shape [R=3], got [2]"),
    (
        lambda: tree.expand(C, X, 2, logp=X[:, :2]),
        "'logp' must not overlap 'logits', got shared memory",
    ),
    (
        lambda: _core.tree_expand(
            C, X, MANY, None, wide(3, 2), zeros(3, 2), wide(2, 2), None, None, None
        ),
        "'beam_ids' must be given together with beam_logp and beam_parent, got 1 of them",
    ),
]


@pytest.mark.parametrize(("call", "message"), EXPAND, ids=text)
def test_tree_expand(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_tree_expand: {message}")


P = ints(-1, 0, 1)
RERANK: list[tuple[Call, str]] = [
    (lambda: tree.rerank(zeros(2), P, 2), "'parent' must have shape [M=2], got [3]"),
    (
        lambda: tree.rerank(C, ints(-1, 0, 2), 2),
        "'parent' must be an earlier node, in [0, 2), at node 2 of request 0, got 2",
    ),
    (lambda: tree.rerank(C, P, -1), "'budget' must be 0 or more for request 0, got -1"),
    (
        lambda: tree.rerank(C, ints(-1, -1, 0), ints(1, -4), indptr=MANY),
        "'budget' must be 0 or more for request 1, got -4",
    ),
    (lambda: tree.rerank(C, P, ints(1, 2)), "'budget' must have shape [B=1], got [2]"),
    (lambda: tree.rerank(C, P, 2, indptr=ints(0, 2)), "'indptr' must end with M=3, got 2"),
    (
        lambda: tree.rerank(C, P, 2, kept=wide(1)),
        "'kept' must have room for the 2 nodes that the budgets allow, got 1",
    ),
    (
        lambda: tree.rerank(C, P, 2, kept=wide(3), kept_parent=wide(2)),
        "'kept_parent' must have shape [N=3], got [2]",
    ),
    (
        lambda: tree.rerank(C, P, 2, workspace=zeros(5, dtype=np.int64)),
        "'workspace' must have 6 elements or more, got 5",
    ),
    (
        lambda: tree.rerank(C, P, 2, workspace=zeros(12, dtype=np.int64)[::2]),
        "'workspace' must be contiguous, got a strided layout",
    ),
]


@pytest.mark.parametrize(("call", "message"), RERANK, ids=text)
def test_tree_rerank(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_tree_rerank: {message}")
