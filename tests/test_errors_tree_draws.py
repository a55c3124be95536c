# SPDX-License-Identifier: Apache-2.0
"""Every error of ``tree.sample_children``: type and whole message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import _core, tree
from test_errors import Call, refuses, text, zeros
from test_errors_trees import ints

X, SEEDS, AT = zeros(3, 8), np.array([1]), ints(4, 4, 4)


def draw(law: str = "iid", k: int = 2, **changes: Any) -> Any:
    given = {"logits": X, "seeds": SEEDS, "positions": AT} | changes
    return tree.sample_children(law=law, k=k, **given)


CASES: list[tuple[Call, str]] = [
    (lambda: draw(logits=X.astype(np.float64)),
     "'logits' must have dtype float32 or float16 or bfloat16, got float64"),
    (lambda: draw(seeds=np.array([1, 2])), "'seeds' must have shape [B=1], got [2]"),
    (lambda: draw(seeds=ints(1)), "'seeds' must have dtype int64 or uint64, got int32"),
    (lambda: draw(positions=ints(1, 2)), "'positions' must have shape [R=3], got [2]"),
    (lambda: draw(node=ints(1)), "'node' must have shape [R=3], got [1]"),
    (lambda: draw(indptr=ints(0, 4)), "'indptr' must end with R=3, got 4"),
    (lambda: draw(temperature=-1.0), "'temperature' must be 0 or more and finite, got -1"),
    (lambda: draw(temperature=np.array([np.nan], np.float32)),
     "'temperature' must be 0 or more and finite, got nan at 0"),
    (lambda: draw(top_k=-1), "'top_k' must be 0 or more, got -1"),
    (lambda: draw(top_p=0.0), "'top_p' must lie in (0, 1], got 0"),
    (lambda: draw(min_p=zeros(2)), "'min_p' must have shape [B=1], got [2]"),
    (lambda: draw(logits=zeros(3, 0)), "'logits' must have a token, got V=0"),
    (lambda: draw(temperature=zeros(2)), "'temperature' must have shape [B=1], got [2]"),
    (lambda: draw(cum_logp=zeros(2)), "'cum_logp' must have shape [R=3], got [2]"),
    (lambda: draw(parent_perturbed=zeros(3)),
     "'parent_perturbed' must be left out but for the stochastic beam, got one"),
    (lambda: draw("stochastic_beam", parent_perturbed=zeros(2)),
     "'parent_perturbed' must have shape [R=3], got [2]"),
    (lambda: draw(d2t=ints(1)), "'d2t' must have shape [V=8], got [1]"),
    (lambda: draw(k=0), "'draws' must have 1 to 64 children per row, got 0"),
    (lambda: draw(k=65), "'draws' must have 1 to 64 children per row, got 65"),
    (lambda: draw(draws=zeros(3, 4, dtype=np.int32)),
     "'logq' must have shape [R=3, K=4], got [3, 2]"),
    (lambda: draw(perturbed=zeros(3, 2)),
     "'perturbed' must be left out for independent draws, got one"),
    (lambda: draw("without_replacement", perturbed=zeros(3, 3)),
     "'perturbed' must have shape [R=3, K=2], got [3, 3]"),
    (lambda: draw(beam=2), "'beam' must be left out for independent draws, got one"),
    (lambda: draw("without_replacement", beam=65),
     "'beam' must have 1 to 64 children per row, got 65"),
    (lambda: draw(status=zeros(2, dtype=np.int32)), "'status' must have shape [R=3], got [2]"),
    (lambda: draw(logq=X[:, :2]), "'logq' must not overlap 'logits', got shared memory"),
    (lambda: _core.tree_sample_children(
        3, (None,) * 6, (X, ints(0, 3), SEEDS, AT, *[None] * 4),
        (zeros(3, 2, dtype=np.int32), zeros(3, 2), *[None] * 3)),
     "'law' must be a fewstep_draw_law, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CASES, ids=text)
def test_tree_sample_children(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_tree_sample_children: {message}")


def test_tree_sample_children_law() -> None:
    refuses(
        lambda: draw("beam"),
        ValueError,
        "fewstep.tree.sample_children: 'law' must be one of iid, without_replacement, "
        "stochastic_beam, got 'beam'",
    )
