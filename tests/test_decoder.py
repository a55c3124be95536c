# SPDX-License-Identifier: Apache-2.0
"""``decoder.run`` has the bits of the ops that it is made of, and the numbers of the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases.decoder import CASES, Case
from harness import Worker
from reference import decoder as reference

COMPOSED = [case for case in CASES if not case.has("head_norms")]
BITS = ("x", "logits", "caches")
# Of sums in float32, rounded to the dtype after each; caches of bytes and int8 activations are
# coarser.
SHARE = {"float32": 3e-6, "float16": 4e-3, "bfloat16": 3e-2}
COARSE = {None: 0.0, "int8": 2e-2, "float8_e4m3fn": 4e-2}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Tell whether two runs have the same bits, those that they left in the caches included."""
    pairs = zip(a["caches"], b["caches"], strict=True)
    return all(np.array_equal(a[n], b[n]) for n in BITS[:2]) and all(
        np.array_equal(*pair) for pair in pairs
    )


@pytest.mark.parametrize("case", COMPOSED, ids=lambda case: case.name)
def test_bits_are_those_of_the_ops(bf16_worker: Worker, case: Case) -> None:
    want = bf16_worker.decoder(verb="composed", case=case)
    assert same(bf16_worker.decoder(case=case), want)
    assert same(bf16_worker.decoder(case=case, threads=2), want)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_and_caches_are_the_references(cpu_worker: Worker, case: Case) -> None:
    got = cpu_worker.decoder(case=case)
    _, _, dim = case.heads
    angle = np.arange(3000)[:, None] / 50 ** (np.arange(dim // 2) / 8)
    want, after = reference.run(
        got["start"], got["plain"], case.indptr, got["cached"], np.cos(angle), np.sin(angle),
        case.heads, case.batch(), 1e-5,
    )  # fmt: skip
    share = SHARE[case.dtype] * (10 if case.scaled == "int8" else 1)
    share = max(share, 3e-4 if case.kind.startswith("int") else 0, COARSE[case.scaled])
    assert np.abs(got["values"] - want).max() <= share * np.abs(want).max()
    for layer, wanted in zip(got["after"], after, strict=True):
        for pair, wanted_pair in zip(layer, wanted, strict=True):
            for cache, exact in zip(pair, wanted_pair, strict=True):
                assert np.abs(cache - exact).max() <= share * np.abs(exact).max()


@pytest.mark.parametrize("case", [c for c in CASES if c.has("head_norms")], ids=lambda c: c.name)
def test_norms_of_heads_have_the_same_bits_everywhere(
    workers: dict[str, Worker], all_workers: list[Worker], case: Case
) -> None:
    want = all_workers[0].decoder(case=case)
    for worker in all_workers[1:]:
        if worker.isa in ("avx2", "avx512"):
            assert same(worker.decoder(case=case, threads=2), want)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("every", [0, 1, 3])
def test_of_an_x_that_is_scratch_the_wanted_rows_are_the_same(
    cpu_worker: Worker, case: Case, every: int
) -> None:
    want = cpu_worker.decoder(case=case)
    got = cpu_worker.decoder(case=case, threads=2, scratch_x=True, every=every)
    rows = want["logits"][::every] if every else want["logits"][:0]
    assert same(got | {"x": want["x"]}, want | {"logits": rows})


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_tokens_are_looked_up(cpu_worker: Worker, kind: str) -> None:
    """In rows of a matrix and in packed ones, which float32 weights are here."""
    dtype = "float32" if kind == "float32" else "bfloat16"
    case = Case("tokens", (40, 3), (2, 5), dtype=dtype, kind=kind)
    assert same(cpu_worker.decoder(case=case, tokens=True), cpu_worker.decoder(case=case))
