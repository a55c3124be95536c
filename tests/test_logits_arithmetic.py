# SPDX-License-Identifier: Apache-2.0
"""Arithmetic sampling: exact codes, the law, and sequences that are spread evenly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import fewstep
from cases import logits as cases
from harness import Worker
from reference import logits as reference

SLACK = 2e-6  # how far weights of float32 move a cumulative probability of up to 5,000 tokens
CODES = np.random.default_rng(8).integers(0, 2**64, 6, np.uint64)


def decoded(worker: Worker, logits: np.ndarray, dtype: str = "float32", **call: Any) -> Any:
    rows = len(logits)
    codes = np.resize(CODES, rows).view(np.int64)
    inputs: dict[str, Any] = {"logits": (logits, dtype), "codes": (codes, "int64")}
    if (mask := call.pop("bitmask", None)) is not None:
        inputs["bitmask"] = (mask, "int32")
    outputs = {
        "out": ((rows,), "int32"),
        "next_codes": ((rows,), "int64"),
        "logprobs": ((rows,), "float32"),
        "status": ((rows,), "int32"),
    }
    options = call.pop("filters", {})
    return worker.run(
        op="logits.sample_arithmetic", inputs=inputs, outputs=outputs, options=options, **call
    )


@pytest.mark.parametrize("name", cases.FILTERS)
@pytest.mark.parametrize("V", cases.VOCABULARIES)
def test_it_is_the_reference(worker: Worker, V: int, name: str) -> None:
    logits = cases.rows(6, V)
    filters = cases.FILTERS[name]
    mask = cases.bitmask(6, V)
    got = decoded(worker, logits, bitmask=mask, filters=filters, gap=V % 3)
    for r, row in enumerate(logits):
        p = reference.law(row, filters, reference.allowed_of(mask[r], V))
        token, within, per = reference.sample_arithmetic(p, int(CODES[r]))
        assert got["status"][r] == 0
        if got["out"][r] != token:
            assert reference.is_close_call(p, int(CODES[r]) / 2.0**64, SLACK)
            continue
        assert int(got["next_codes"][r]) % 2**64 / 2.0**64 == pytest.approx(within, abs=SLACK * per)
        assert got["logprobs"][r] == pytest.approx(np.log(p[token]), abs=2e-5)


@pytest.mark.parametrize("V", [1, 3, 1000, 5000, 1 << 17])
def test_equal_weights_give_exact_codes(worker: Worker, V: int) -> None:
    """The token is the upper word of code times V, the next code the lower one."""
    got = decoded(worker, np.full((6, V), 0.25, np.float32), "float16")
    for r, code in enumerate(CODES.tolist()):
        assert got["out"][r] == code * V >> 64
        assert int(got["next_codes"][r]) % 2**64 == code * V % 2**64


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_sequences_are_spread_evenly(filters: dict[str, Any]) -> None:
    """Of N evenly spaced codes each sequence has N times its probability, but for 1 at most."""
    N = 4096
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(1, 6)) * 1.5, rng.normal(size=(6, 6)) * 1.5
    codes = fewstep.logits.arithmetic_codes(N, seed=7)
    start = np.repeat(first, N, axis=0).astype(np.float32)
    tokens, rest = fewstep.logits.sample_arithmetic(start, codes, **filters)
    follow = second.astype(np.float32)[tokens]
    last, _ = fewstep.logits.sample_arithmetic(follow, rest, **filters)
    seen = Counter(zip(tokens.tolist(), last.tolist(), strict=True))
    p = reference.law(start[0], filters)
    for a in range(6):
        q = reference.law(second.astype(np.float32)[a], filters)
        for b in range(6):
            assert abs(seen[a, b] - N * p[a] * q[b]) < 1 + N * 1e-6


def test_in_place_and_whole_range() -> None:
    logits = np.zeros((3, 5), np.float32)
    codes = np.array([0, 2**63, 2**64 - 1], np.uint64)
    right = fewstep.logits.sample_arithmetic(logits, codes)
    assert right.tokens.tolist() == [0, 2, 4]
    got = fewstep.logits.sample_arithmetic(logits, codes, next_codes=codes)
    assert got.codes is codes
    assert np.array_equal(codes, right.codes)


def test_batch_threads_and_instruction_sets_do_not_matter(workers: dict[str, Worker]) -> None:
    logits = cases.rows(12, 40000)
    for filters in ({}, {"top_k": 50}, {"top_p": 0.9}):
        right = decoded(workers["scalar"], logits, filters=filters)
        for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
            for threads in (1, 3):
                got = decoded(workers[isa], logits, filters=filters, threads=threads)
                assert all(np.array_equal(got[key], right[key]) for key in right), isa
        alone = fewstep.logits.sample_arithmetic(logits[4:5], [int(CODES[4])], **filters)
        assert alone.tokens[0] == right["out"][4]
        assert alone.codes.view(np.int64)[0] == right["next_codes"][4]


def test_torch_codes() -> None:
    torch = pytest.importorskip("torch")
    tokens, codes = fewstep.logits.sample_arithmetic(torch.zeros(2, 4), [0, 3 << 62])
    assert tokens.tolist() == [0, 3]
    assert codes.dtype == torch.int64


def test_a_row_without_a_law_has_a_status_and_keeps_its_code(worker: Worker) -> None:
    mask = np.full((6, 47), 0xFFFFFFFF, np.uint32)
    mask[5] = 0
    got = decoded(worker, cases.lawless(1500), bitmask=mask)
    assert got["status"].tolist() == cases.LAWLESS
    assert got["out"][1:].tolist() == [-1] * 5
    assert np.isnan(got["logprobs"][1:]).all()
    assert np.array_equal(got["next_codes"][1:].view(np.uint64), CODES[1:])
