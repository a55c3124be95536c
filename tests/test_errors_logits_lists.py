# SPDX-License-Identifier: Apache-2.0
"""Messages of the logits ops that list tokens, whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import _core, logits
from test_errors import refuses, text, zeros
from test_errors_trees import ints

ROWS = zeros(2, 40)
WORDS = zeros(2, 2, dtype=np.int32)
CODES = np.array([1, 2], np.uint64)


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


FILTERED = [
    ({"top_p": 0.0}, "'top_p' must lie in (0, 1], got 0"),
    ({"top_k": np.array([1, -2], np.int32)}, "'top_k' must be 0 or more, got -2 at 1"),
    ({"logits": zeros(2, 0)}, "'logits' must have a token, got V=0"),
    (
        {"bitmask": WORDS[:, :1]},
        "'bitmask' must have 2 words in a row, one bit for each token, got 1",
    ),
    ({"status": zeros(2)}, "'status' must have dtype int32, got float32"),
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *FILTERED,
        ({"k": 0}, "'ids' must have 1 to 1024 tokens in a row, got 0"),
        ({"seeds": [1, 2, 3]}, "'seeds' must have shape [R=2], got [3]"),
        ({"positions": np.zeros(2, np.int64)}, "'positions' must have dtype int32, got int64"),
        ({"perturbed": zeros(2, 4)}, "'perturbed' must have shape [R=2, K=3], got [2, 4]"),
        ({"logprobs": zeros(3, 3)}, "'logprobs' must have shape [R=2, K=3], got [3, 3]"),
        ({"logprobs": ROWS[:, :3]}, "'logprobs' must not overlap 'logits', got shared memory"),
    ],
    ids=text,
)
def test_logits_gumbel_top_k(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"logits": ROWS, "k": 3, "seeds": [1, 2]} | options
    refuses(
        lambda: logits.gumbel_top_k(**arguments),
        ValueError,
        f"fewstep_logits_gumbel_top_k: {message}",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *FILTERED,
        ({"k": 1025}, "'ids' must have 1 to 1024 tokens in a row, got 1025"),
        ({"out": zeros(2, 4)}, "'out' must have shape [R=2, V=40], got [2, 4]"),
        ({"k": 3, "ids": zeros(2, 3)}, "'ids' must have dtype int32, got float32"),
        (
            {"k": 3, "probabilities": zeros(2, 4)},
            "'probabilities' must have shape [R=2, K=3], got [2, 4]",
        ),
        ({"k": 3, "count": ints(0, 0, 0)}, "'count' must have shape [R=2], got [3]"),
        (
            {"count": ints(0, 0)},
            "'ids' must be given together with probabilities and count, got NULL",
        ),
        ({"out": ROWS}, "'out' must not overlap 'logits', got shared memory"),
    ],
    ids=text,
)
def test_logits_renorm(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"logits": ROWS} | options
    refuses(lambda: logits.renorm(**arguments), ValueError, f"fewstep_logits_renorm: {message}")


def test_logits_renorm_needs_an_output() -> None:
    refuses(
        lambda: _core.logits_renorm((None,) * 6, (ROWS, None), (None,) * 5),
        ValueError,
        "fewstep_logits_renorm: 'out' must be given, or ids, probabilities and count, "
        "got none of them",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *FILTERED,
        ({"codes": [1, 2, 3]}, "'codes' must have shape [R=2], got [3]"),
        ({"codes": ints(1, 2)}, "'codes' must have dtype int64 or uint64, got int32"),
        ({"out": zeros(2)}, "'out' must have dtype int32, got float32"),
        ({"next_codes": np.zeros(3, np.int64)}, "'next_codes' must have shape [R=2], got [3]"),
        ({"next_codes": CODES[:]}, "'next_codes' must not overlap 'codes', got shared memory"),
        ({"logprobs": zeros(3)}, "'logprobs' must have shape [R=2], got [3]"),
    ],
    ids=text,
)
def test_logits_sample_arithmetic(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"logits": ROWS, "codes": CODES} | options
    refuses(
        lambda: logits.sample_arithmetic(**arguments),
        ValueError,
        f"fewstep_logits_sample_arithmetic: {message}",
    )


def test_logits_lists_take_no_rows() -> None:
    nothing = zeros(0, 5)
    assert logits.top_k(nothing, 2).ids.shape == (0, 2)
    assert logits.gumbel_top_k(nothing, 2, []).ids.shape == (0, 2)
    assert logits.renorm(nothing).shape == (0, 5)
    assert logits.sample_arithmetic(nothing, []).tokens.shape == (0,)
    assert logits.top_k(ROWS, 2, status=ints(0, 0)).ids.tolist() == [[0, 1]] * 2
