# SPDX-License-Identifier: Apache-2.0
"""The best tokens: which, in what order, and the log-normaliser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from cases import logits as cases
from harness import Worker
from reference import logits as reference


def found(worker: Worker, logits: np.ndarray, k: int, dtype: str = "float32", **call: Any) -> Any:
    inputs: dict[str, Any] = {"logits": (logits, dtype)}
    if (mask := call.pop("bitmask", None)) is not None:
        inputs["bitmask"] = (mask, "int32")
    rows = len(logits)
    outputs = {
        "ids": ((rows, k), "int32"),
        "values": ((rows, k), "float32"),
        "log_normaliser": ((rows,), "float32"),
        "status": ((rows,), "int32"),
    }
    options = {"k": k, "normalise": call.pop("normalise", False)}
    return worker.run(op="logits.top_k", inputs=inputs, outputs=outputs, options=options, **call)


def check(got: Any, logits: np.ndarray, k: int, normalise: bool, mask: Any = None) -> None:
    for r, row in enumerate(logits):
        allowed = None if mask is None else reference.allowed_of(mask[r], len(row))
        ids, values, total = reference.top_k(row, k, allowed)
        assert np.array_equal(got["ids"][r], ids)
        if normalise:
            assert np.allclose(got["values"][r], values - total, atol=2e-6, rtol=1e-6)
        else:
            assert np.array_equal(got["values"][r], values)
        assert got["log_normaliser"][r] == pytest.approx(total, abs=2e-6, rel=1e-6)
        assert got["status"][r] == 0


@pytest.mark.parametrize("k", cases.COUNTS)
@pytest.mark.parametrize("V", cases.VOCABULARIES)
def test_it_is_the_reference(worker: Worker, V: int, k: int) -> None:
    logits = cases.rows(5, V)
    normalise = bool(V % 2)
    got = found(worker, logits, k, normalise=normalise, gap=V % 3)
    check(got, logits, k, normalise)


@pytest.mark.parametrize("k", [7, 100])
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_types_masks_and_ties(worker: Worker, dtype: str, k: int) -> None:
    """Integers are exact in every type, and of few different ones many are equal."""
    rng = np.random.default_rng(9)
    logits = rng.integers(-9, 5, (6, 3001)).astype(np.float32)
    logits[2, 40:] = -np.inf
    mask = cases.bitmask(6, 3001)
    got = found(worker, logits, k, dtype, bitmask=mask, offset=1, gap=5)
    check(got, logits, k, False, mask)


def test_threads_and_instruction_sets_do_not_matter(workers: dict[str, Worker]) -> None:
    logits = cases.rows(9, 40000)
    right = found(workers["scalar"], logits, 33, normalise=True)
    for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
        for threads in (1, 3):
            got = found(workers[isa], logits, 33, normalise=True, threads=threads)
            assert all(np.array_equal(got[key], right[key]) for key in right), isa
    alone = fewstep.logits.top_k(logits[4:5], 33, normalise=True)
    assert np.array_equal(alone.ids[0], right["ids"][4])
    assert np.array_equal(alone.values[0], right["values"][4])


def test_a_row_without_a_law_has_a_status_and_no_token(worker: Worker) -> None:
    mask = np.full((6, 47), 0xFFFFFFFF, np.uint32)
    mask[5] = 0
    got = found(worker, cases.lawless(1500), 5, bitmask=mask)
    assert got["status"].tolist() == cases.LAWLESS
    assert (got["ids"][1:] == -1).all()
    assert np.isnan(got["values"][1:]).all()
    assert np.isnan(got["log_normaliser"][1:]).all()
    assert (got["ids"][0] >= 0).all()
