# SPDX-License-Identifier: Apache-2.0
"""The filtered law: dense, as a list, and that it is the one that tokens are drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from cases import logits as cases
from harness import Worker
from reference import logits as reference


def laws(worker: Worker, logits: np.ndarray, k: int, dtype: str = "float32", **call: Any) -> Any:
    rows, V = logits.shape
    inputs: dict[str, Any] = {"logits": (logits, dtype)}
    if (mask := call.pop("bitmask", None)) is not None:
        inputs["bitmask"] = (mask, "int32")
    outputs = {
        "out": ((rows, V), "float32"),
        "ids": ((rows, k), "int32"),
        "probabilities": ((rows, k), "float32"),
        "count": ((rows,), "int32"),
        "status": ((rows,), "int32"),
    }
    options = call.pop("filters", {})
    return worker.run(op="logits.renorm", inputs=inputs, outputs=outputs, options=options, **call)


def check_list(got: Any, k: int) -> None:
    """The list is the head of the dense law, sorted."""
    for r, p in enumerate(got["out"]):
        ids, values, _ = reference.top_k(np.where(p > 0, p, -np.inf), k)
        assert np.array_equal(got["ids"][r], ids)
        assert np.array_equal(got["probabilities"][r], np.maximum(values, 0).astype(np.float32))
        assert got["count"][r] == (p > 0).sum()


@pytest.mark.parametrize("name", cases.FILTERS)
@pytest.mark.parametrize("V", cases.VOCABULARIES)
def test_it_is_the_reference(worker: Worker, V: int, name: str) -> None:
    logits = cases.rows(5, V)
    filters = cases.FILTERS[name]
    got = laws(worker, logits, 9, filters=filters, gap=V % 3)
    right = np.array([reference.renorm(row, filters) for row in logits])
    assert np.array_equal(got["out"] > 0, right > 0)
    assert np.allclose(got["out"], right, rtol=1e-5, atol=1e-9)
    assert (got["status"] == 0).all()
    check_list(got, 9)


@pytest.mark.parametrize("k", cases.COUNTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lists_types_and_masks(worker: Worker, dtype: str, k: int) -> None:
    """Many are equal; for some laws the list is too short."""
    rng = np.random.default_rng(3)
    logits = rng.integers(-6, 3, (4, 3001)).astype(np.float32)
    mask = cases.bitmask(4, 3001)
    for filters in ({}, {"top_k": 40}, {"top_k": 700, "top_p": 0.9}, {"min_p": 0.1}):
        got = laws(worker, logits, k, dtype, bitmask=mask, filters=filters, offset=1, gap=5)
        allowed = [reference.allowed_of(row, 3001) for row in mask]
        right = [reference.renorm(*row) for row in zip(logits, [filters] * 4, allowed, strict=True)]
        assert np.allclose(got["out"], right, rtol=1e-5, atol=1e-9)
        check_list(got, k)


@pytest.mark.parametrize("name", cases.FILTERS)
def test_tokens_are_drawn_from_it(name: str) -> None:
    logits = np.repeat(cases.rows(3, 2050), 40, axis=0)
    filters = cases.FILTERS[name]
    logprobs = np.empty(120, np.float32)
    tokens = fewstep.logits.sample(logits, np.arange(120), logprobs=logprobs, **filters)
    p = fewstep.logits.renorm(logits, **filters)[np.arange(120), tokens]
    assert np.allclose(np.log(p), logprobs, rtol=1e-6, atol=1e-6)


def test_threads_and_instruction_sets_do_not_matter(workers: dict[str, Worker]) -> None:
    logits = cases.rows(9, 9000)
    for filters in ({}, {"top_k": 50}, {"top_p": 0.9}, {"typical": 0.8}):
        right = laws(workers["scalar"], logits, 33, filters=filters)
        for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
            for threads in (1, 3):
                got = laws(workers[isa], logits, 33, filters=filters, threads=threads)
                assert all(np.array_equal(got[key], right[key]) for key in right), isa
        alone = fewstep.logits.renorm(logits[4:5], **filters)
        assert np.array_equal(alone[0], right["out"][4])


def test_a_row_without_a_law_has_a_status_and_no_probabilities(worker: Worker) -> None:
    mask = np.full((6, 47), 0xFFFFFFFF, np.uint32)
    mask[5] = 0
    got = laws(worker, cases.lawless(1500), 5, bitmask=mask)
    assert got["status"].tolist() == cases.LAWLESS
    assert np.isnan(got["out"][1:]).all()
    assert np.isnan(got["probabilities"][1:]).all()
    assert (got["ids"][1:] == -1).all()
    assert got["count"].tolist() == [got["count"][0], 0, 0, 0, 0, 0]
    assert got["out"][0].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("k", [1499, 1500, 1501, 4000])
def test_counts_of_many_are_exact(worker: Worker, k: int) -> None:
    """The last kept token is the last of its logit, or its neighbour is."""
    logits = np.full((3, 9001), -1.0, np.float32)
    for r, row in enumerate(logits):
        row[np.random.default_rng(r).permutation(9001)[:1500]] = 0.0
    got = laws(worker, logits, 3, filters={"top_k": k})
    assert got["count"].tolist() == [k] * 3
    right = [reference.renorm(row, {"top_k": k}) for row in logits]
    assert np.array_equal(got["out"] > 0, np.array(right) > 0)
