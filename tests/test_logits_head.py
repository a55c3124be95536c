# SPDX-License-Identifier: Apache-2.0
"""``logits.head_top_k``: what ``linear.run`` and ``logits.top_k`` give one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from cases.linear import KINDS, arrays
from cases.logits import HEADS
from harness import Worker
from linear_calls import head_top_k
from reference import logits as reference


def head_of(shape: tuple[int, int, int], kind: str) -> dict[str, np.ndarray]:
    """Hidden states, weight and bias of M rows, O tokens, I inputs."""
    rows, outputs, inputs = shape
    a = arrays((rows, inputs, outputs), "float32", "float32")
    return {**a, "tokens": np.random.default_rng(3).permutation(2 * outputs)[:outputs]}


def composed(
    a: dict[str, np.ndarray], kind: str, k: int, **options: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    packed = fewstep.linear.pack(a["weight"].astype(np.float32), kind=kind)
    linear = {n: v for n, v in options.items() if n in ("bias", "norm", "norm_eps")}
    logits = fewstep.linear.run(a["x"].astype(np.float32), packed, **linear)
    tokens = options.get("tokens", np.arange(logits.shape[1], dtype=np.int32))
    wide = np.full((len(logits), int(tokens.max()) + 1), -np.inf, np.float32)
    wide[:, tokens] = logits
    lse = np.zeros(len(wide), np.float32)
    found = fewstep.logits.top_k(
        wide, k, normalise=options.get("normalise", False), log_normaliser=lse
    )
    return wide, {"ids": found.ids, "values": found.values, "log_normaliser": lse}


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_logits_then_top_k(kind: str, shape: tuple[int, int, int], k: int) -> None:
    """The same bits of the logits, so the same tokens, with a subset of tokens in any order."""
    a = head_of(shape, kind)
    for options in (
        {},
        {"bias": a["bias"].astype(np.float32), "tokens": a["tokens"].astype(np.int32)},
        {"norm": a["norm"].astype(np.float32), "normalise": True},
    ):
        layout = {"offset": len(options), "gap": 3 * len(options)}
        got = head_top_k(x=a["x"], weight=a["weight"], kind=kind, k=k, **options, **layout)
        _, wanted = composed(a, kind, k, **options)
        assert np.array_equal(got["ids"], wanted["ids"])
        assert (got["status"] == 0).all()
        normalised = options.get("normalise", False)
        limit = 1e-5 if normalised else 0.0
        np.testing.assert_allclose(got["values"], wanted["values"], rtol=0, atol=limit)
        np.testing.assert_allclose(
            got["log_normaliser"], wanted["log_normaliser"], rtol=1e-6, atol=1e-6
        )


def test_matches_float64(dot_worker: Worker) -> None:
    """Values, sums and, where none are close, tokens of the reference."""
    a = head_of((6, 9000, 40), "float32")
    tokens = a["tokens"].astype(np.int32)
    got = dot_worker.linear(
        verb="head_top_k", x=a["x"], weight=a["weight"], kind="float32", k=8, tokens=tokens
    )
    weight = a["weight"].astype(np.float32)
    for m, x in enumerate(a["x"].astype(np.float32)):
        ids, values, total = reference.head_top_k(x, weight, 8, tokens)
        limit = 2e-6 * float((np.abs(x) * np.abs(weight)).sum(1).max())
        np.testing.assert_allclose(got["values"][m], values, rtol=0, atol=limit)
        assert got["log_normaliser"][m] == pytest.approx(total, abs=limit)
        apart = np.diff(values, append=-np.inf) < -2 * limit
        apart &= np.diff(values, prepend=np.inf) < -2 * limit
        apart[-1] = False  # the ninth may be close
        assert np.array_equal(got["ids"][m][apart], ids[apart])
        assert apart.any()


@pytest.mark.parametrize(
    ("kind", "inputs"), [("float32", 40), ("bfloat16", 600), ("int8", 40), ("int4", 600)]
)
def test_batch_threads_and_instruction_sets_do_not_matter(
    workers: dict[str, Worker], kind: str, inputs: int
) -> None:
    a = head_of((80, 6500, inputs), kind)
    options = {"x": a["x"], "weight": a["weight"], "kind": kind, "k": 9, "normalise": True}
    first = workers["scalar"].linear(verb="head_top_k", **options)
    for isa in fewstep.info()["cpu"]["available"]:
        for threads in (1, 3):
            got = workers[isa].linear(verb="head_top_k", threads=threads, **options)
            for name, values in first.items():
                assert np.array_equal(got[name], values), (isa, threads, name)
    for m in (0, 33, 79):
        alone = head_top_k(**{**options, "x": a["x"][m : m + 1]})
        for name, values in alone.items():
            assert np.array_equal(values[0], first[name][m])


@pytest.mark.parametrize("k", [1, 5, 600, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_finds_what_the_cpu_finds(
    workers: dict[str, Worker], cuda_worker: Worker, kind: str, k: int
) -> None:
    """With x in float32, so that logits have the CPU's bits; a row alone and among others."""
    for shape in ((1, 3000, 40), (11, 1100, 72)):
        a = head_of(shape, kind)
        for options in (
            {"normalise": True},
            {"bias": a["bias"].astype(np.float32), "tokens": a["tokens"].astype(np.int32)},
            {"norm": a["norm"].astype(np.float32)},
        ):
            call: dict[str, Any] = {"verb": "head_top_k", "kind": kind, "k": k, **options}
            call |= {"x": a["x"], "weight": a["weight"], "offset": len(options), "gap": 3}
            got, wanted = cuda_worker.linear(**call), workers["scalar"].linear(**call)
            limit = 1e-6 if "normalise" in options else 0.0
            np.testing.assert_allclose(got["values"], wanted["values"], rtol=0, atol=limit)
            np.testing.assert_allclose(
                got["log_normaliser"], wanted["log_normaliser"], rtol=1e-6, atol=1e-6
            )
            assert np.array_equal(got["ids"], wanted["ids"])
            assert np.array_equal(got["status"], wanted["status"])
            last = {**call, "x": a["x"][-1:]}
            for name, values in cuda_worker.linear(**last).items():
                assert np.array_equal(values[0], got[name][-1])


def test_rows_without_a_law(worker: Worker) -> None:
    weight = np.ones((2100, 2), np.float32)
    weight[2090:, 1] = 0.0
    x = np.array([[1, np.nan], [np.inf, 1], [-np.inf, 1], [1, 2]], np.float32)
    given = {"verb": "head_top_k", "kind": "float32"}
    got = worker.linear(x=x, weight=weight, k=2, **given)
    assert got["status"].tolist() == [1, 2, 3, 0]
    assert got["ids"].tolist() == [[-1, -1], [-1, -1], [-1, -1], [0, 1]]
    assert np.isnan(got["values"][:3]).all()
    assert np.isnan(got["log_normaliser"][:3]).all()
    short = worker.linear(x=x[3:], weight=weight[:1], k=3, **given)
    assert short["ids"].tolist() == [[0, -1, -1]]
    assert short["values"].tolist() == [[3.0, -np.inf, -np.inf]]
