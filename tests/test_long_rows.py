# SPDX-License-Identifier: Apache-2.0
"""Rows of several tiles, which the blocks of a cluster share where there are few rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import logits as cases
from harness import Worker
from small_token_cases import long_cases

TILE = 32_768  # tokens that a block has at once
MANY = 67  # rows, for which no cluster of 2 finds room on 132 multiprocessors


def sampled(worker: Worker, logits: np.ndarray, **filters: Any) -> dict[str, np.ndarray]:
    count = len(logits)
    return worker.run(
        op="logits.sample",
        inputs={
            "logits": (logits, "float32"),
            "seeds": (np.arange(count) % 5, "int64"),
            "positions": (np.zeros(count), "int32"),
        },
        outputs={n: ((count,), k) for n, k in (("out", "int32"), ("logprobs", "float32"))}
        | {"status": ((count,), "int32")},
        options=filters,
    )


@pytest.mark.parametrize("index", range(len(cases.LONG)), ids=map(str, cases.LONG))
def test_results_are_the_cpus(index: int, cuda_worker: Worker, workers: dict[str, Worker]) -> None:
    """Every op that reads whole rows, bit by bit, with clusters of 2, 4 and 8."""
    for case in long_cases(index, cases.LONG[index]):
        found, wanted = cuda_worker.run(**case), workers["scalar"].run(**case)
        for name in found:
            same = np.array_equal(found[name], wanted[name], equal_nan=True)
            assert same, (case["op"], case.get("options"), name)


@pytest.mark.parametrize("name", ["plain", "top_k", "top_p", "typical", "eta", "few_of_all"])
def test_a_row_alone_and_among_many(name: str, cuda_worker: Worker) -> None:
    """By a cluster of 4, and by a block."""
    rows, filters = cases.rows(5, 3 * TILE - 7), cases.FILTERS[name]
    many = sampled(cuda_worker, np.tile(rows, (-(-MANY // 5), 1)), **filters)
    alone = sampled(cuda_worker, rows, **filters)
    for key in many:
        assert np.array_equal(many[key], np.tile(alone[key], -(-MANY // 5))), key


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.0}])
def test_what_one_block_meets_all_know(filters: dict[str, Any], cuda_worker: Worker) -> None:
    """A NaN, the only token, or the largest by far, in one of the tiles."""
    places = [0, TILE - 1, TILE, 3 * TILE, 4 * TILE + 5]
    count, V = len(places), 4 * TILE + 6
    row = np.arange(count)
    best = cases.rows(count, V)
    best[row, places] = 60.0
    found = sampled(cuda_worker, best, **filters)
    assert (found["out"].tolist(), found["status"].tolist()) == (places, [0] * count)
    only = np.full((count, V), -np.inf, np.float32)
    only[row, places] = -3.0
    found = sampled(cuda_worker, only, **filters)
    assert (found["out"].tolist(), found["logprobs"].tolist()) == (places, [0.0] * count)
    best[row, places] = np.nan
    found = sampled(cuda_worker, best, **filters)
    assert found["out"].tolist() == [-1] * count
    assert found["status"].tolist() == [found["status"][0]] * count != [0] * count
    only[row, places] = -np.inf
    assert sampled(cuda_worker, only, **filters)["out"].tolist() == [-1] * count
