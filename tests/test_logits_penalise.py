# SPDX-License-Identifier: Apache-2.0
"""Penalties and biases: what is named changes as the formulas say, the rest not by a bit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import fewstep
from cases import logits as cases
from harness import Worker
from reference import logits as reference

PENALTIES = {"repetition": 1.3, "presence": 0.7, "frequency": 0.11}


def given(V: int, *, counts: bool = False, bias: str = "") -> dict[str, Any]:
    """Inputs of one row per history: everything that the op takes."""
    ids, indptr = cases.histories(V)
    rng = np.random.default_rng(V)
    inputs: dict[str, Any] = {"tokens": (ids, "int32"), "indptr": (indptr, "int32")}
    if counts:
        inputs["counts"] = (rng.integers(0, 4, len(ids)), "int32")
    if bias:
        M = 5000
        inputs["bias_ids"] = (rng.integers(-1, V, M), "int32")
        inputs["bias_values"] = (rng.normal(size=M), "float32")
    if bias == "ragged":
        ends = np.sort(rng.integers(0, M, len(indptr) - 2))
        inputs["bias_indptr"] = (np.array([0, *ends, M]), "int32")
    return inputs


def wanted(logits: np.ndarray, inputs: dict[str, Any], penalties: dict[str, Any]) -> np.ndarray:
    """The reference's rows; penalties may be numbers or one for each row."""

    def of(name: str, r: int, default: Any) -> Any:
        return np.asarray(inputs[name][0])[slice(*r)] if name in inputs else default

    rows = []
    ends = inputs["indptr"][0]
    bias_ends = inputs["bias_indptr"][0] if "bias_indptr" in inputs else None
    for r, row in enumerate(logits):
        own = (ends[r], ends[r + 1])
        ids = of("tokens", own, [])
        counts: Counter[int] = Counter()
        for v, count in zip(ids, of("counts", own, np.ones(len(ids), int)), strict=True):
            counts[int(v)] += int(count)
        biased = (None,) if bias_ends is None else (bias_ends[r], bias_ends[r + 1])
        bias: Counter[int] = Counter()
        for v, value in zip(of("bias_ids", biased, []), of("bias_values", biased, []), strict=True):
            bias[int(v)] += np.float32(value)
        del counts[-1], bias[-1]
        numbers = {k: v if np.isscalar(v) else v[r] for k, v in penalties.items()}
        rows.append(reference.penalise(row, counts, bias, **numbers))
    return np.array(rows)


def penalised(worker: Worker, logits: np.ndarray, dtype: str = "float32", **call: Any) -> Any:
    inputs = {"logits": (logits, dtype)} | call.pop("inputs")
    outputs = {"out": (logits.shape, dtype)}
    return worker.run(op="logits.penalise", inputs=inputs, outputs=outputs, **call)


@pytest.mark.parametrize("bias", ["", "shared", "ragged"])
@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("V", [1, 17, 1025, 50000])
def test_it_is_the_reference(worker: Worker, V: int, counts: bool, bias: str) -> None:
    logits = cases.rows(len(cases.HISTORIES), V)
    inputs = given(V, counts=counts, bias=bias)
    found = penalised(worker, logits, inputs=inputs, options=PENALTIES, gap=V % 3)["out"]
    right = wanted(logits, inputs, PENALTIES)
    assert np.allclose(found, right, rtol=1e-5, atol=5e-3 if V == 1 else 2e-4)
    untouched = right == logits
    assert np.array_equal(found[untouched], logits[untouched])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_are_rounded_once(worker: Worker, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    logits = torch.from_numpy(cases.rows(len(cases.HISTORIES), 300)).to(kind)
    inputs = given(300, bias="ragged")
    given_rows = logits.float().numpy()
    found = penalised(worker, given_rows, dtype, inputs=inputs, options=PENALTIES, offset=1)
    right = torch.from_numpy(wanted(given_rows, inputs, PENALTIES)).to(kind).float().numpy()
    unit = 2.0**-10 if dtype == "float16" else 2.0**-7
    finite = np.isfinite(right)
    assert np.array_equal(found["out"][~finite], right[~finite])
    wrong = found["out"][finite] != right[finite]
    assert wrong.mean() < 0.002  # float32 may round to the other neighbour
    assert np.allclose(found["out"][finite], right[finite], rtol=unit, atol=unit / 64)


def test_rows_have_their_own_penalties(worker: Worker) -> None:
    count = len(cases.HISTORIES)
    logits = cases.rows(count, 400)
    rng = np.random.default_rng(2)
    own = {
        "repetition": rng.uniform(0.5, 2, count).astype(np.float32),
        "presence": rng.normal(size=count).astype(np.float32),
        "frequency": (rng.normal(size=count) / 50).astype(np.float32),
    }
    inputs = given(400)
    numbers = {name: (values, "float32") for name, values in own.items()}
    found = penalised(worker, logits, inputs=inputs | numbers)["out"]
    assert np.allclose(found, wanted(logits, inputs, own), rtol=1e-5, atol=2e-4)


def test_in_place_is_the_same_and_reads_nothing_else(worker: Worker) -> None:
    logits = cases.rows(len(cases.HISTORIES), 700)
    inputs = given(700, counts=True, bias="shared")
    apart = penalised(worker, logits, inputs=inputs, options=PENALTIES)["out"]
    arrays = {name: np.asarray(*value) for name, value in inputs.items()}
    assert fewstep.logits.penalise(logits, **arrays, **PENALTIES, out=logits) is logits
    assert np.array_equal(logits, apart)


def test_batch_threads_and_instruction_sets_do_not_matter(workers: dict[str, Worker]) -> None:
    logits = cases.rows(len(cases.HISTORIES), 5000)
    inputs = given(5000, bias="ragged")
    right = penalised(workers["scalar"], logits, inputs=inputs, options=PENALTIES)["out"]
    for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
        for threads in (1, 3):
            call = {"inputs": inputs, "options": PENALTIES, "threads": threads}
            assert np.array_equal(penalised(workers[isa], logits, **call)["out"], right), isa
    ids, indptr = cases.histories(5000)
    for r in range(len(logits)):
        bias = slice(*inputs["bias_indptr"][0][r : r + 2])
        alone = fewstep.logits.penalise(
            logits[r : r + 1],
            [ids[indptr[r] : indptr[r + 1]].tolist()],
            bias_ids=inputs["bias_ids"][0][bias].astype(np.int32),
            bias_values=inputs["bias_values"][0][bias].astype(np.float32),
            **PENALTIES,
        )
        assert np.array_equal(alone[0], right[r])


def test_ids_that_share_a_hash_are_taken_in_parts() -> None:
    """Ids whose products with the multiplier agree in their upper bits crowd one part."""
    inverse = pow(0x9E3779B1, -1, 2**32)
    V = 1 << 22
    ids = [i for h in range(1 << 21) if (i := h * inverse % 2**32) < V]
    ids = (ids * (15000 // len(ids) + 1))[:15000] + list(range(3000))
    logits = np.ones((1, V), np.float32)
    found = fewstep.logits.penalise(logits, [ids], frequency=1.0)
    right = 1.0 - np.bincount(ids, minlength=V)
    assert np.array_equal(found[0], right)


def test_repetition_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = cases.rows(3, 500)
    ids = np.random.default_rng(4).integers(0, 500, (3, 60))
    processor = process.RepetitionPenaltyLogitsProcessor(1.7)
    right = processor(torch.from_numpy(ids), torch.from_numpy(logits)).numpy()
    assert np.array_equal(fewstep.logits.penalise(logits, ids.tolist(), repetition=1.7), right)
