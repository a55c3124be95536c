# SPDX-License-Identifier: Apache-2.0
"""Draws without replacement: the very draws of the reference, and their law by enumeration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import fewstep
from cases import logits as cases
from harness import Worker
from reference import logits as reference
from reference import tree_draws


def drawn(worker: Worker, logits: np.ndarray, k: int, dtype: str = "float32", **call: Any) -> Any:
    rows = len(logits)
    inputs: dict[str, Any] = {
        "logits": (logits, dtype),
        "seeds": (np.arange(rows) + 5, "int64"),
        "positions": (np.arange(rows) % 3, "int32"),
    }
    if (mask := call.pop("bitmask", None)) is not None:
        inputs["bitmask"] = (mask, "int32")
    outputs = {
        "ids": ((rows, k), "int32"),
        "perturbed": ((rows, k), "float32"),
        "logprobs": ((rows, k), "float32"),
        "status": ((rows,), "int32"),
    }
    options = {"k": k} | call.pop("filters", {})
    return worker.run(
        op="logits.gumbel_top_k", inputs=inputs, outputs=outputs, options=options, **call
    )


def check(got: Any, logits: np.ndarray, k: int, filters: dict[str, Any], mask: Any = None) -> int:
    """Every row is the reference's; returns in how many a filter's edge is rounded otherwise."""
    close = 0
    for r, row in enumerate(logits):
        allowed = None if mask is None else reference.allowed_of(mask[r], len(row))
        p = reference.law(row, filters, allowed)
        ids, values = reference.gumbel_top_k(p, k, r + 5, r % 3)
        assert got["status"][r] == 0
        if not np.array_equal(got["ids"][r], ids):
            close += 1
            continue
        assert np.allclose(got["perturbed"][r], values, rtol=1e-5, atol=2e-5)
        has = ids >= 0
        assert np.allclose(got["logprobs"][r][has], np.log(p[ids[has]]), rtol=1e-5, atol=2e-5)
        assert (got["logprobs"][r][~has] == -np.inf).all()
    return close


def test_a_token_is_drawn_where_its_weight_is_not_zero(worker: Worker) -> None:
    """Down to the last float whose weight has not vanished beside the largest."""
    logits = np.linspace(-87.4, -87.9, 1024, dtype=np.float32)[None].copy()
    logits[0, 0] = 0.0
    got = drawn(worker, logits, 1024)
    weighed = np.flatnonzero(fewstep.logits.renorm(logits)[0])
    assert 1 < len(weighed) < 1024
    assert sorted(got["ids"][0, : len(weighed)].tolist()) == weighed.tolist()
    assert (got["ids"][0, len(weighed) :] == -1).all()


@pytest.mark.parametrize("name", cases.FILTERS)
@pytest.mark.parametrize("V", [1, 17, 64, 1025, 5000])
def test_it_is_the_reference(worker: Worker, V: int, name: str) -> None:
    logits = cases.rows(6, V)
    filters = cases.FILTERS[name]
    got = drawn(worker, logits, 8, filters=filters, gap=V % 3)
    assert check(got, logits, 8, filters) == 0


@pytest.mark.parametrize("k", cases.COUNTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_counts_types_and_masks(worker: Worker, dtype: str, k: int) -> None:
    rng = np.random.default_rng(3)
    logits = rng.integers(-6, 5, (4, 3001)).astype(np.float32)
    mask = cases.bitmask(4, 3001)
    got = drawn(worker, logits, k, dtype, bitmask=mask, offset=1, gap=5)
    assert check(got, logits, k, {}, mask) == 0


@pytest.mark.parametrize("filters", [{}, {"temperature": 2.0, "top_k": 4}])
def test_orders_have_the_law_of_draws_one_after_the_other(filters: dict[str, Any]) -> None:
    """Every ordered set of three, against the products of its conditional laws."""
    logits = np.log(np.array([0.4, 0.05, 0.25, 0.1, 0.2])).astype(np.float32)
    p = reference.law(logits, filters)
    rows = 60000
    got = fewstep.logits.gumbel_top_k(np.tile(logits, (rows, 1)), 3, np.arange(rows), **filters)
    seen = Counter(map(tuple, got.ids.tolist()))
    kept = [int(v) for v in np.flatnonzero(p)]
    law = {
        tuple(kept[i] for i in order): chance
        for order, chance in tree_draws.without_replacement(p[kept], 3)
    }
    assert set(seen) <= set(law)
    assert tree_draws.chi_square_is_small([seen[o] for o in law], list(law.values()))


def test_batch_threads_and_instruction_sets_do_not_matter(workers: dict[str, Worker]) -> None:
    logits = cases.rows(9, 40000)
    for filters in ({}, {"top_k": 50}, {"top_p": 0.9}):
        right = drawn(workers["scalar"], logits, 33, filters=filters)
        for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
            for threads in (1, 3):
                got = drawn(workers[isa], logits, 33, filters=filters, threads=threads)
                assert all(np.array_equal(got[key], right[key]) for key in right), isa
        alone = fewstep.logits.gumbel_top_k(logits[4:5], 33, [9], 1, **filters)
        assert np.array_equal(alone.ids[0], right["ids"][4])
        assert np.array_equal(alone.perturbed[0], right["perturbed"][4])


def test_streams_draws_and_positions_are_apart() -> None:
    logits = np.zeros((1, 4096), np.float32)
    seen = [
        tuple(fewstep.logits.gumbel_top_k(logits, 4, [s], at, stream=stream, draw=draw).ids[0])
        for s in (0, 2**32)
        for at in (0, 1)
        for stream in (8, 9)
        for draw in (0, 1)
    ]
    assert len(set(seen)) == len(seen)


def test_a_row_without_a_law_has_a_status_and_no_token(worker: Worker) -> None:
    mask = np.full((6, 47), 0xFFFFFFFF, np.uint32)
    mask[5] = 0
    for filters in ({}, {"top_k": 3}, {"temperature": 0.0}):
        got = drawn(worker, cases.lawless(1500), 5, bitmask=mask, filters=filters)
        assert got["status"].tolist() == cases.LAWLESS
        assert (got["ids"][1:] == -1).all()
        assert np.isnan(got["perturbed"][1:]).all()
        assert np.isnan(got["logprobs"][1:]).all()
        assert 0 <= got["ids"][0, 0] < 1500
