# SPDX-License-Identifier: Apache-2.0
"""Tokens drawn from logits: the law, its filters, and that nothing else matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

import fewstep
from cases import logits as cases
from harness import Worker
from reference import logits as reference

SLACK = 2e-5  # how far float32 weights may move a cumulative probability


def drawn(worker: Worker, logits: np.ndarray, dtype: str = "float32", **given: Any) -> Any:
    count = len(logits)
    options = dict(given.pop("options", {}))
    mask = given.pop("bitmask", None)
    inputs: dict[str, Any] = {
        "logits": (logits, dtype),
        "seeds": (np.arange(count) + 5, "int64"),
        "positions": (np.arange(count) % 3, "int32"),
        "bitmask": None if mask is None else (mask, "int32"),
    }
    inputs |= given.pop("inputs", {})
    outputs = {
        "out": ((count,), "int32"),
        "logprobs": ((count,), "float32"),
        "status": ((count,), "int32"),
    }
    return worker.run(op="logits.sample", inputs=inputs, outputs=outputs, options=options, **given)


def as_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers that a tensor of this type holds."""
    torch = pytest.importorskip("torch")
    return torch.from_numpy(values).to(getattr(torch, dtype)).double().numpy()


def check(found: Any, logits: np.ndarray, filters: dict[str, Any], mask: Any = None) -> int:
    """Every token is the reference's unless rounding may decide; returns how often it may."""
    close = 0
    for r, row in enumerate(logits):
        allowed = None if mask is None else reference.allowed_of(mask[r], len(row))
        p = reference.law(row, filters, allowed)
        u = reference.uniform(r + 5, r % 3)
        token = int(found["out"][r])
        assert found["status"][r] == 0
        if token != reference.sample(p, u):
            close += 1
            assert reference.is_close_call(p, u, SLACK)
            continue
        assert found["logprobs"][r] == pytest.approx(np.log(p[token]), abs=2e-5)
    return close


@pytest.mark.parametrize("name", cases.FILTERS)
@pytest.mark.parametrize("V", cases.VOCABULARIES)
def test_draws_are_the_reference(worker: Worker, V: int, name: str) -> None:
    logits = cases.rows(6, V)
    filters = cases.FILTERS[name]
    found = drawn(worker, logits, options=filters, gap=V % 3)
    assert check(found, logits, filters) <= 1


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", ["plain", "top_k_top_p", "all_but_top_k"])
@pytest.mark.parametrize("V", [17, 1025, 3000])
def test_types_masks_and_strides(worker: Worker, V: int, name: str, dtype: str) -> None:
    logits = cases.rows(5, V, spread=1.0)
    mask = cases.bitmask(5, V)
    filters = cases.FILTERS[name]
    found = drawn(worker, logits, dtype, options=filters, bitmask=mask, offset=1, gap=5)
    assert check(found, as_stored(logits, dtype), filters, mask) <= 1


@pytest.mark.parametrize("name", cases.FILTERS)
def test_ties_go_to_the_lower_id(worker: Worker, name: str) -> None:
    """Few different values: every filter must choose among equals."""
    rng = np.random.default_rng(7)
    logits = rng.integers(-3, 3, (40, 1100)).astype(np.float32)
    filters = cases.FILTERS[name]
    if "typical" in filters:
        pytest.skip("distances of equals differ by rounding in either precision")
    found = drawn(worker, logits, options=filters)
    assert check(found, logits, filters) <= 2


def test_rows_have_their_own_filters(worker: Worker) -> None:
    names = list(cases.FILTERS)
    logits = cases.rows(len(names), 1300)
    default = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical": 1.0,
        "eta": 0.0,
    }
    inputs = {}
    for key, off in default.items():
        values = [cases.FILTERS[name].get(key, off) for name in names]
        kind = "int32" if key == "top_k" else "float32"
        inputs[key] = (np.array(values, kind), kind)
    found = drawn(worker, logits, inputs=inputs)
    for r, name in enumerate(names):
        one = {k: np.float64(np.float32(v)) for k, v in cases.FILTERS[name].items() if k != "top_k"}
        one |= {k: v for k, v in cases.FILTERS[name].items() if k == "top_k"}
        p = reference.law(logits[r], one)
        u = reference.uniform(r + 5, r % 3)
        same = found["out"][r] == reference.sample(p, u)
        assert same or reference.is_close_call(p, u, SLACK)


@pytest.mark.parametrize("name", ["plain", "top_k_top_p", "top_p", "typical", "eta", "best"])
def test_batch_threads_and_instruction_sets_do_not_matter(
    workers: dict[str, Worker], name: str
) -> None:
    logits = cases.rows(24, 4100)
    filters = cases.FILTERS[name]
    seeds, positions = np.arange(24) + 5, np.arange(24) % 3
    wanted = drawn(workers["scalar"], logits, options=filters)
    for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
        for threads in (1, 3):
            found = drawn(workers[isa], logits, options=filters, threads=threads)
            for key, values in wanted.items():
                assert np.array_equal(found[key], values), (isa, key)
    order = np.random.default_rng(3).permutation(24)[:11]
    part = fewstep.logits.sample(
        logits[order], seeds[order], positions[order].astype(np.int32), **filters
    )
    assert np.array_equal(part, wanted["out"][order])


def test_a_row_without_a_law_has_a_status_and_no_token(worker: Worker) -> None:
    logits = cases.rows(6, 1500)
    logits[1, 1499] = np.nan
    logits[2, 700] = np.inf
    logits[3] = -np.inf
    logits[4, 3] = -np.nan
    mask = np.full((6, 47), 0xFFFFFFFF, np.uint32)
    mask[5] = 0
    for filters in (*cases.FILTERS.values(),):
        found = drawn(worker, logits, options=filters, bitmask=mask)
        assert found["status"].tolist() == [0, 1, 2, 3, 1, 3]
        assert found["out"][1:].tolist() == [-1] * 5
        assert 0 <= found["out"][0] < 1500
        assert np.isnan(found["logprobs"][1:]).all()


def test_a_masked_token_may_be_nan(worker: Worker) -> None:
    """What is not allowed does not count, whatever it is."""
    logits = np.array([[0.0, np.nan, np.inf, 1.0]], np.float32)
    mask = np.array([[0b1001]], np.uint32)
    assert drawn(worker, logits, bitmask=mask)["status"][0] == 0


def test_streams_draws_positions_and_seeds_are_apart() -> None:
    logits = np.zeros((1, 4096), np.float32)
    seen = set()
    count = 0
    for seed in (0, 1, 2**32):
        for position in (0, 1):
            for stream in (4, 5, 6, 7, 8):
                for draw in (0, 1):
                    seen.add(
                        int(
                            fewstep.logits.sample(
                                logits, [seed], position, stream=stream, draw=draw
                            )[0]
                        )
                    )
                    count += 1
    assert len(seen) > 0.9 * count


@pytest.mark.parametrize("name", ["plain", "top_k_top_p", "min_p"])
def test_frequencies_are_the_law(name: str) -> None:
    """At a vocabulary of 32,000, a million draws without filters: chi-square, rare ones pooled."""
    V, draws = 32000, 1 << 20
    rng = np.random.default_rng(11)
    logits = (rng.normal(size=V) * 1.5).astype(np.float32)
    filters = cases.FILTERS[name]
    p = reference.law(logits, filters)
    counts = np.zeros(V)
    rows = np.tile(logits, (1024, 1))
    for part in range(draws // 1024 if name == "plain" else 64):
        seeds = np.arange(part * 1024, (part + 1) * 1024)
        counts += np.bincount(fewstep.logits.sample(rows, seeds, **filters), minlength=V)
    total = counts.sum()
    assert counts[p == 0].sum() == 0
    order = np.argsort(-p)
    expected, observed = p[order] * total, counts[order]
    pooled = np.cumsum(expected) // 20.0  # cells of about 20 draws
    cells = np.unique(pooled, return_inverse=True)[1]
    e, o = np.bincount(cells, expected), np.bincount(cells, observed)
    statistic = ((o - e) ** 2 / e)[e > 5].sum()
    assert stats.chi2.sf(statistic, (e > 5).sum() - 1) > 1e-4


@pytest.mark.parametrize("name", cases.FILTERS)
def test_filters_are_those_of_transformers(name: str) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    filters = cases.FILTERS[name]
    if name in ("best", "top_k_many", "many_typical"):
        pytest.skip("transformers has no such processor")
    logits = cases.rows(5, 400, seed=3, spread=1.5)
    warped = torch.from_numpy(logits).double()
    warpers = (
        ("temperature", "TemperatureLogitsWarper"),
        ("top_k", "TopKLogitsWarper"),
        ("top_p", "TopPLogitsWarper"),
        ("min_p", "MinPLogitsWarper"),
        ("typical", "TypicalLogitsWarper"),
        ("eta", "EtaLogitsWarper"),
    )
    for key, warper in warpers:
        if key in filters:
            warped = getattr(process, warper)(filters[key])(None, warped)
    wanted = warped.softmax(-1).numpy()
    for row, p in zip(logits, wanted, strict=True):
        assert reference.law(row, filters) == pytest.approx(p, abs=1e-7)


def test_pieces_whose_weights_are_all_zero_are_not_drawn_from(worker: Worker) -> None:
    """Each piece is far below the next: only the last one's best token has any weight."""
    V = 40 * 1024
    logits = np.repeat(np.arange(40, dtype=np.float32) * 60.0, 1024)[None]
    logits[0, -1] += 30.0
    for draw in range(8):
        found = worker.run(
            op="logits.sample",
            inputs={
                "logits": (logits, "float32"),
                "seeds": (np.array([draw]), "int64"),
                "positions": (np.zeros(1, np.int32), "int32"),
            },
            outputs={"out": ((1,), "int32")},
        )
        assert found["out"][0] == V - 1


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.7}, {"min_p": 0.01, "typical": 0.9}])
def test_pieces_of_several_blocks_are_the_same_everywhere(
    workers: dict[str, Worker], filters: dict[str, Any]
) -> None:
    """A vocabulary beyond 2**20, where masses are kept of runs of two blocks."""
    logits = cases.rows(2, (1 << 20) + 3001)
    wanted = drawn(workers["scalar"], logits, options=filters)
    for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
        found = drawn(workers[isa], logits, options=filters)
        assert all(np.array_equal(found[key], wanted[key]) for key in wanted), isa


@pytest.mark.parametrize(
    "filters", [{"top_k": 7}, {"top_k": 700}, {"top_k": 9000}, {"top_p": 0.3}, {"typical": 0.4}]
)
def test_ties_are_the_same_everywhere(workers: dict[str, Worker], filters: dict[str, Any]) -> None:
    """More equal tokens than any list holds: which of them are kept is found by their ids."""
    rng = np.random.default_rng(6)
    logits = np.stack([np.zeros(20000), rng.integers(0, 2, 20000)]).astype(np.float32)
    logits = np.repeat(logits, 8, axis=0)
    wanted = drawn(workers["scalar"], logits, options=filters)
    for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
        found = drawn(workers[isa], logits, options=filters)
        assert all(np.array_equal(found[key], wanted[key]) for key in wanted), isa
