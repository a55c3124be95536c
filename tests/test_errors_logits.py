# SPDX-License-Identifier: Apache-2.0
"""Messages of the logits family, whole."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fewstep import logits

ROWS = np.zeros((2, 40), np.float32)
WORDS = np.zeros((2, 2), np.int32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "'temperature' must be 0 or more and finite, got -1"),
        ({"temperature": float("nan")}, "'temperature' must be 0 or more and finite, got nan"),
        ({"top_k": -2}, "'top_k' must be 0 or more, got -2"),
        ({"top_p": 0.0}, "'top_p' must lie in (0, 1], got 0"),
        ({"top_p": 1.5}, "'top_p' must lie in (0, 1], got 1.5"),
        ({"min_p": -0.5}, "'min_p' must lie in [0, 1], got -0.5"),
        ({"typical": 0.0}, "'typical' must lie in (0, 1], got 0"),
        ({"eta": 1.0}, "'eta' must lie in [0, 1), got 1"),
        (
            {"top_p": np.array([0.5, 2.0], np.float32)},
            "'top_p' must lie in (0, 1], got 2 at 1",
        ),
        (
            {"top_k": np.array([1, 2], np.int64)},
            "'top_k' must have dtype int32, got int64",
        ),
        (
            {"temperature": np.ones(3, np.float32)},
            "'temperature' must have shape [R=2], got [3]",
        ),
        (
            {"bitmask": WORDS[:, :1]},
            "'bitmask' must have 2 words in a row, one bit for each token, got 1",
        ),
        (
            {"bitmask": WORDS.astype(np.int64)},
            "'bitmask' must have dtype int32 or uint32, got int64",
        ),
        ({"seeds": [1, 2, 3]}, "'seeds' must have shape [R=2], got [3]"),
        ({"positions": np.zeros(2, np.int64)}, "'positions' must have dtype int32, got int64"),
        ({"out": np.zeros(3, np.int32)}, "'out' must have shape [R=2], got [3]"),
        ({"logprobs": np.zeros(2)}, "'logprobs' must have dtype float32, got float64"),
        ({"status": np.zeros(2, np.int64)}, "'status' must have dtype int32, got int64"),
    ],
)
def test_logits_sample(options: dict[str, Any], message: str) -> None:
    arguments = {"seeds": [1, 2]} | options
    out = arguments.setdefault("out", np.full(2, 9, np.int32))
    before = out.copy()
    with pytest.raises(ValueError, match=f"^{re.escape(f'fewstep_logits_sample: {message}')}$"):
        logits.sample(ROWS, **arguments)
    assert np.array_equal(out, before)


def test_logits_sample_needs_tokens_and_room() -> None:
    message = "fewstep_logits_sample: 'logits' must have a token, got V=0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        logits.sample(np.zeros((1, 0), np.float32), [1])
    both = np.zeros(2, np.int32)
    message = "fewstep_logits_sample: 'out' must not overlap 'status', got shared memory"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        logits.sample(ROWS, [1, 2], out=both, status=both)
    message = "fewstep.logits.sample: 'logits' must be an array, got list"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        logits.sample([[0.0]], [1])  # type: ignore[arg-type]
    assert logits.sample(np.zeros((0, 5), np.float32), []).shape == (0,)
