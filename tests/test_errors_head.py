# SPDX-License-Identifier: Apache-2.0
"""Messages of ``logits.head_top_k``, whole."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fewstep


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "'ids' must have 1 to 1024 tokens in a row, got 0"),
        ({"bias": np.zeros(5, np.float32)}, "'bias' must have shape [O=4], got [5]"),
        ({"tokens": np.zeros(3, np.int32)}, "'tokens' must have shape [O=4], got [3]"),
        ({"norm": np.zeros(3, np.float32), "norm_eps": -1.0},
         "'norm_eps' must be finite and 0 or more, got -1"),
        ({"workspace": np.zeros(1, np.int64)}, "'workspace' must have 24 elements or more, got 1"),
        ({"ids": np.zeros((1, 2), np.int32)}, "'ids' must have shape [M=2, K], got [1, 2]"),
    ],
)  # fmt: skip
def test_logits_head_top_k(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "x": np.zeros((2, 3), np.float32),
        "packed": fewstep.linear.pack(np.zeros((4, 3), np.float32)),
        "k": 2,
    }
    with pytest.raises(ValueError, match=f"^{re.escape('fewstep_logits_head_top_k: ' + message)}$"):
        fewstep.logits.head_top_k(**given | changes)


def test_logits_head_top_k_sizes_and_weights() -> None:
    packed = fewstep.linear.pack(np.zeros((4, 3), np.float32))
    message = r"^fewstep\.logits\.head_top_k: 'x' must have shape \[M, 3\], got \[2, 4\]$"
    with pytest.raises(ValueError, match=message):
        fewstep.logits.head_top_k(np.zeros((2, 4), np.float32), packed, 1)
    message = r"'packed' must be a fewstep\.linear\.Packed, got ndarray$"
    with pytest.raises(TypeError, match=message):
        fewstep.logits.head_top_k(np.zeros((2, 3), np.float32), np.zeros((4, 3)), 1)
