# SPDX-License-Identifier: Apache-2.0
"""Messages of the logits ops that list tokens, whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import logits
from test_errors import refuses, text, zeros
from test_errors_trees import ints

ROWS = zeros(2, 40)
WORDS = zeros(2, 2, dtype=np.int32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "'ids' must have 1 to 1024 tokens in a row, got 0"),
        ({"k": 1025}, "'ids' must have 1 to 1024 tokens in a row, got 1025"),
        ({"logits": zeros(2, 0)}, "'logits' must have a token, got V=0"),
        (
            {"logits": ROWS.astype(np.float64)},
            "'logits' must have dtype float32 or float16 or bfloat16, got float64",
        ),
        (
            {"bitmask": WORDS[:, :1]},
            "'bitmask' must have 2 words in a row, one bit for each token, got 1",
        ),
        ({"ids": zeros(2, 3)}, "'ids' must have dtype int32, got float32"),
        ({"values": zeros(2, 4)}, "'values' must have shape [R=2, K=3], got [2, 4]"),
        ({"log_normaliser": zeros(3)}, "'log_normaliser' must have shape [R=2], got [3]"),
        ({"status": zeros(2)}, "'status' must have dtype int32, got float32"),
        ({"values": ROWS[:, :3]}, "'values' must not overlap 'logits', got shared memory"),
        ({"status": WORDS[:, 0], "bitmask": WORDS},
         "'status' must not overlap 'bitmask', got shared memory"),
    ],
    ids=text,
)  # fmt: skip
def test_logits_top_k(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"logits": ROWS, "k": 3} | options
    refuses(lambda: logits.top_k(**arguments), ValueError, f"fewstep_logits_top_k: {message}")


def test_logits_lists_take_no_rows() -> None:
    assert logits.top_k(zeros(0, 5), 2).ids.shape == (0, 2)
    assert logits.top_k(ROWS, 2, status=ints(0, 0)).ids.tolist() == [[0, 1]] * 2
