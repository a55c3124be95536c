# SPDX-License-Identifier: Apache-2.0
"""``tree.k_seq_rho`` against float64, and against what ``tree.verify`` accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from harness import Worker
from reference import logits as laws
from reference import tree as reference

R = 6


def problem(V: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and drafts' laws near theirs."""
    rng = np.random.default_rng([79, V, seed])
    logits = rng.normal(size=(R, V), scale=2.0).astype(np.float32)
    q = np.exp(logits + rng.normal(size=(R, V)))
    return logits, (q / q.sum(1, keepdims=True)).astype(np.float32)


def found(worker: Worker, logits: np.ndarray, q: np.ndarray, k: int, **options: Any) -> Any:
    ids = options.pop("ids", None)
    layout = {name: options.pop(name) for name in ("threads", "gap") if name in options}
    return worker.run(
        op="tree.k_seq_rho",
        inputs={
            "logits": (logits, "float32"),
            "draft": (q, "float32"),
            "draft_ids": None if ids is None else (ids, "int32"),
        },
        outputs={
            "rho": ((R,), "float64"), "accept": ((R,), "float64"), "status": ((R,), "int32"),
        },
        options={"k": k, **options},
        **layout,
    )  # fmt: skip


@pytest.mark.parametrize("filters", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8}])
@pytest.mark.parametrize("k", [1, 2, 7, 256])
@pytest.mark.parametrize("V", [1, 7, 1030])
def test_it_is_the_reference(worker: Worker, V: int, k: int, filters: dict[str, Any]) -> None:
    """Of many draws the chance that one is accepted hardly depends on rho: it is compared."""
    logits, q = problem(V)
    got = found(worker, logits, q, k, gap=3, **filters)
    for r in range(R):
        p, draft = laws.law(logits[r], filters), q[r].astype(float)
        rho, accept = got["rho"][r], got["accept"][r]
        assert accept == pytest.approx(np.minimum(draft, p / rho).sum(), rel=2e-6)
        chance = 1 - (1 - accept) ** k
        assert chance <= rho * accept * (1 + 2e-6)
        least, divisor = reference.k_seq_rho(p, draft, k)
        assert chance == pytest.approx(divisor * np.minimum(draft, p / least).sum(), rel=4e-6)
        if k <= 2:
            assert rho == pytest.approx(least, rel=2e-6)


def test_a_compact_draft_is_the_whole_one(worker: Worker) -> None:
    logits, q = problem(40)
    ids = np.array([[0, 2, 3, 9]], np.int32)
    columns, whole = q[:1, ids[0]], np.zeros((1, 40), np.float32)
    whole[:, ids[0]] = columns
    one = found(worker, logits, columns, 3, ids=ids)
    other = found(worker, logits, whole, 3)
    assert np.array_equal(one["rho"], other["rho"])
    assert np.array_equal(one["accept"], other["accept"])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_verify_accepts_as_often(k: int) -> None:
    V, requests = 30, 20000
    logits, q = problem(V)
    rho, accept = fewstep.tree.k_seq_rho(logits[:1], q[:1], k)
    drawn = np.random.default_rng(3).choice(V, (requests, k), p=q[0] / q[0].sum(dtype=float))
    parent = np.tile(np.array([-1] + [0] * k, np.int32), requests)
    token = np.concatenate([np.zeros((requests, 1), int), drawn], 1).astype(np.int32).ravel()
    verified = fewstep.tree.verify(
        parent, np.arange(requests + 1, dtype=np.int32) * (k + 1), token,
        np.broadcast_to(logits[0], (len(parent), V)).copy(), np.arange(requests), 0, rule="k_seq",
        law="iid", draft=q[:1], draft_row=np.zeros(len(parent), np.int32),
    )  # fmt: skip
    chance = 1 - (1 - accept[0]) ** k
    assert chance <= rho[0] * accept[0] * (1 + 1e-12)
    slack = 4.5 * np.sqrt(chance * (1 - chance) / requests)
    assert abs((verified.accepted > 0).mean() - chance) < slack


def test_batch_threads_and_instruction_sets_do_not_matter(workers: dict[str, Worker]) -> None:
    logits, q = problem(1030, seed=1)
    first = found(workers["scalar"], logits, q, 3)
    for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
        for threads in (1, 3):
            got = found(workers[isa], logits, q, 3, threads=threads)
            for name, values in first.items():
                assert np.array_equal(got[name], values), (isa, name)
    alone = fewstep.tree.k_seq_rho(logits[4:5], q[4:5], 3)
    assert (alone.rho[0], alone.accept[0]) == (first["rho"][4], first["accept"][4])


def test_a_row_without_a_law_has_a_status(worker: Worker) -> None:
    logits, q = problem(20)
    logits[1, 3], logits[2, 4], logits[3] = np.nan, np.inf, -np.inf
    got = found(worker, logits, q, 2)
    assert got["status"].tolist() == [0, 1, 2, 3, 0, 0]
    assert np.isnan(got["rho"]).tolist() == [False, True, True, True, False, False]
    assert np.isnan(got["accept"]).tolist() == np.isnan(got["rho"]).tolist()
