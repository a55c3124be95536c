# SPDX-License-Identifier: Apache-2.0
"""``tree.sample_children``: numbers, laws, and that nothing but the request decides."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fewstep
from cases import tree as cases
from cases.logits import FILTERS
from cases.logits import rows as logit_rows
from fewstep import tree
from harness import Worker
from reference import tree_draws as reference
from test_step import rounded

LAWS = ("iid", "without_replacement", "stochastic_beam")


def problem(seed: int, vocabulary: int) -> dict[str, Any]:
    """A ragged batch with temperatures, nodes and, for the beam, scores of the parents."""
    case = cases.growth_case(seed, vocabulary)
    rng = np.random.default_rng([54, seed])
    rows, requests = len(case["logits"]), len(case["indptr"]) - 1
    return case | {
        "cum_logp": -rng.exponential(size=rows).astype(np.float32),
        "parent_perturbed": rng.gumbel(size=rows).astype(np.float32),
        "seeds": rng.integers(-(2**62), 2**62, requests),
        "positions": rng.integers(0, 2**20, rows).astype(np.int32),
        "node": rng.permutation(rows).astype(np.int32),
        "temperature": rng.uniform(0.5, 2.0, requests).astype(np.float32),
    }


def drawn(worker: Worker, case: dict[str, Any], law: str, k: int, **options: Any) -> Any:
    """Run the op between guard bands."""
    rows, requests = len(case["logits"]), len(case["indptr"]) - 1
    kinds = {"seeds": "int64", "logits": options.pop("dtype", "float32")}
    floats = ("temperature", "top_p", "min_p", "cum_logp", "parent_perturbed")
    kinds |= dict.fromkeys(floats, "float32")
    outputs: dict[str, Any] = {
        "draws": ((rows, k), "int32"),
        "logq": ((rows, k), "float32"),
        "status": ((rows,), "int32"),
    }
    if law != "iid":
        outputs |= {"perturbed": ((rows, k), "float32"), "beam": ((requests, 3), "int32")}
    left_out = () if law == "stochastic_beam" else ("parent_perturbed",)
    given = {n: (v, kinds.get(n, "int32")) for n, v in case.items() if n not in left_out}
    chosen = {"law": law, "k": k, **options.pop("filters", {})}
    return worker.run(
        op="tree.sample_children", inputs=given, outputs=outputs, options=chosen, **options
    )


@pytest.mark.parametrize("layout", cases.LAYOUTS, ids=str)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("vocabulary", [1, 5, 513, 5003])
def test_sample_children_matches_reference(
    worker: Worker, vocabulary: int, law: str, layout: dict[str, int]
) -> None:
    """Every draw is the one that the contract's numbers give, in float64."""
    dtype = ("float32", "float16", "bfloat16")[vocabulary % 3]
    case, k = problem(1 + len(layout), vocabulary), 6
    case["logits"] = rounded(case["logits"], dtype).astype(np.float32)
    got = drawn(worker, case, law, k, dtype=dtype, **layout)
    requests = np.repeat(np.arange(4), np.diff(case["indptr"])).tolist()
    for r, b in enumerate(requests):
        if not np.isfinite(case["logits"][r]).any():
            assert got["status"][r] == 3
            assert (got["draws"][r] == -1).all()
            continue
        draws, logq, perturbed = reference.sample_children(
            case["logits"][r], law, k, int(case["seeds"][b]), int(case["positions"][r]),
            int(case["node"][r]), float(case["temperature"][b]), float(case["cum_logp"][r]),
            float(case["parent_perturbed"][r]),
        )  # fmt: skip
        count = len(draws)
        assert got["status"][r] == 0
        assert got["draws"][r].tolist() == draws + [-1] * (k - count)
        assert (got["logq"][r, count:] == -np.inf).all()
        assert np.allclose(got["logq"][r, :count], logq, rtol=1e-6, atol=3e-6)
        if law != "iid":
            assert np.allclose(got["perturbed"][r, :count], perturbed, rtol=1e-5, atol=1e-5)
            assert (got["perturbed"][r, count:] == -np.inf).all()
    if law != "iid":
        for b in range(4):
            own = got["perturbed"][slice(*case["indptr"][b : b + 2])].ravel()
            chosen = reference.best(own, 3)
            assert got["beam"][b].tolist() == chosen + [-1] * (3 - len(chosen))


@pytest.mark.parametrize("law", LAWS)
def test_sample_children_draws_the_same_everywhere(workers: dict[str, Worker], law: str) -> None:
    """On every ISA, on any number of threads, alone or in a batch in any order."""
    from conftest import ISAS

    case = problem(2, 9001)
    results = [
        drawn(workers[isa], case, law, 8, threads=threads) for isa in ISAS for threads in (1, 3)
    ]
    for other in results[1:]:
        assert all(np.array_equal(results[0][name], other[name]) for name in other)
    for b in range(4):
        part = slice(*case["indptr"][b : b + 2])
        rows = [np.ascontiguousarray(case[n][part]) for n in ("positions", "node", "cum_logp")]
        options = {} if law != "stochastic_beam" else {
            "parent_perturbed": case["parent_perturbed"][part].copy()
        }  # fmt: skip
        alone = tree.sample_children(
            case["logits"][part].copy(), law, 8, case["seeds"][b : b + 1].copy(), rows[0],
            node=rows[1], cum_logp=rows[2], temperature=case["temperature"][b : b + 1].copy(),
            **options,
        )  # fmt: skip
        assert np.array_equal(alone.draws, results[0]["draws"][part])
        assert np.array_equal(alone.logq, results[0]["logq"][part])


def many(q: np.ndarray, law: str, k: int, rows: int, **options: Any) -> tree.Draws:
    """Draw from one law at many positions of one request."""
    logits = np.broadcast_to(np.log(q).astype(np.float32), (rows, len(q)))
    positions = np.arange(rows, dtype=np.int32)
    node = np.full(rows, 5, np.int32)
    return tree.sample_children(logits, law, k, np.array([77]), positions, node=node, **options)


def test_independent_draws_have_the_law() -> None:
    q = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.009, 0.001])
    draws = many(q, "iid", 4, 40_000).draws
    assert reference.chi_square_is_small(np.bincount(draws.ravel(), minlength=7).tolist(), q)
    pairs = Counter(map(tuple, draws[:, :2].tolist()))
    keys = list(itertools.product(range(7), repeat=2))
    law = [q[a] * q[b] for a, b in keys]
    assert reference.chi_square_is_small([pairs[key] for key in keys], law)


def test_independent_draws_of_a_large_vocabulary() -> None:
    rng = np.random.default_rng(1)
    q = rng.exponential(size=32_000)
    q /= q.sum()
    draws = many(q, "iid", 64, 16_000).draws  # a million
    assert reference.chi_square_is_small(np.bincount(draws.ravel(), minlength=32_000).tolist(), q)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_without_replacement_have_the_law(temperature: float) -> None:
    """Ordered sequences, and so inclusion probabilities, are those of drawing one by one."""
    q = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    given = np.array([temperature], np.float32)
    draws = many(q, "without_replacement", 3, 60_000, temperature=given).draws
    law = dict(
        reference.without_replacement(q ** (1 / temperature) / (q ** (1 / temperature)).sum(), 3)
    )
    counts = Counter(map(tuple, draws.tolist()))
    assert reference.chi_square_is_small([counts[key] for key in law], list(law.values()))


def test_a_stochastic_beam_draws_paths_without_replacement() -> None:
    """Two of nine paths of two tokens: pairs in their order as if drawn from a list of nine."""
    first = np.array([0.6, 0.3, 0.1])
    second = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    requests, width = 60_000, 2
    seeds = np.arange(requests) + 2**40
    logits = np.broadcast_to(np.log(first).astype(np.float32), (requests, 3))
    ends = np.arange(requests + 1, dtype=np.int32)
    top = tree.sample_children(
        logits, "stochastic_beam", 3, seeds, np.full(requests, 9, np.int32), indptr=ends, beam=width
    )
    assert (top.perturbed[:, 0] == 0).all()  # the root's
    token = np.take_along_axis(top.draws, top.beam, 1).ravel()
    scores = np.take_along_axis(top.perturbed, top.beam, 1).ravel()
    cum = np.take_along_axis(top.logq, top.beam, 1).ravel()
    below = tree.sample_children(
        np.log(second).astype(np.float32)[token], "stochastic_beam", 3, seeds,
        np.full(width * requests, 10, np.int32), indptr=width * ends, beam=width,
        cum_logp=cum, parent_perturbed=scores,
    )  # fmt: skip
    assert np.array_equal(below.perturbed[:, 0], scores)  # a path's best child has its score
    assert (np.diff(below.perturbed) < 0).all()
    row, draw = np.divmod(below.beam, 3)
    rows = width * np.arange(requests)[:, None] + row
    paths = 3 * token[rows] + below.draws[rows, draw]
    q = (first[:, None] * second).ravel()
    law = dict(reference.without_replacement(q.tolist(), 2))
    counts = Counter(map(tuple, paths.tolist()))
    assert reference.chi_square_is_small([counts[key] for key in law], list(law.values()))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", FILTERS)
def test_filtered_draws_have_the_law_that_renorm_gives(worker: Worker, law: str, name: str) -> None:
    """Draw by draw, by the contract's random numbers."""
    rows, k, filters = 24, 8, FILTERS[name]
    logits, seeds = logit_rows(rows, 2050), np.array([2**40 + 5])
    case = {"logits": logits, "seeds": seeds, "indptr": np.array([0, rows], np.int32)}
    case["positions"] = np.arange(rows, dtype=np.int32)
    got = drawn(worker, case, law, k, filters=filters)
    given = fewstep.logits.renorm(logits, **filters).astype(np.float64)
    for r in range(rows):
        with np.errstate(divide="ignore"):
            logits_of_law = np.log(given[r])
        draws, logq, _ = reference.sample_children(logits_of_law, law, k, int(seeds[0]), r, r)
        assert got["draws"][r].tolist() == draws + [-1] * (k - len(draws))
        assert np.allclose(got["logq"][r, : len(draws)], logq, rtol=1e-6, atol=1e-6)
        assert (got["logq"][r, len(draws) :] == -np.inf).all()


@pytest.mark.parametrize("law", LAWS)
def test_filters_are_a_request_s_own(worker: Worker, law: str) -> None:
    logits, seeds = logit_rows(6, 500), np.array([3, 3, 3])
    ends, at = np.array([0, 1, 4, 6], np.int32), np.arange(6, dtype=np.int32)
    own: dict[str, list[float]] = {
        "temperature": [0.0, 0.5, 1.5], "top_k": [0, 5, 300], "top_p": [1.0, 0.9, 0.99],
        "min_p": [0.0, 0.1, 0.0],
    }  # fmt: skip
    kinds = {"top_k": np.int32}
    arrays = {n: np.array(v, kinds.get(n, np.float32)) for n, v in own.items()}
    case = {"logits": logits, "seeds": seeds, "positions": at, "indptr": ends} | arrays
    got = drawn(worker, case, law, 6)
    for b in range(3):
        part = slice(ends[b], ends[b + 1])
        alone = tree.sample_children(
            logits[part], law, 6, seeds[:1], at[part], **{n: v[b] for n, v in own.items()}
        )
        assert np.array_equal(alone.draws, got["draws"][part])
        assert np.allclose(alone.logq, got["logq"][part], rtol=1e-6)
    best = [int(logits[0].argmax())]
    assert got["draws"][0].tolist() == (best * 6 if law == "iid" else best + [-1] * 5)
    assert got["logq"][0, 0] == 0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_without_a_law(worker: Worker, law: str, value: float) -> None:
    """A status and no draws; neither has a row whose path is dead."""
    case = problem(3, 700)
    case["logits"][:] = np.random.default_rng(1).normal(size=case["logits"].shape)
    case["logits"][0, 600] = value
    case["logits"][1] = -np.inf
    case["cum_logp"][2] = -np.inf
    got = drawn(worker, case, law, 4)
    assert got["status"][:4].tolist() == [1 if np.isnan(value) else 2, 3, 0, 0]
    assert (got["draws"][:3] == -1).all()
    assert (got["logq"][:3] == -np.inf).all()
    assert (got["draws"][3:] >= 0).all()


def test_masked_tokens_are_never_drawn_and_ids_are_mapped() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.full((50, 200), float("-inf"))
    logits[:, [3, 130]] = 0.0
    d2t = torch.arange(200, dtype=torch.int32) * 10
    d2t[3] = -1
    seeds, positions = torch.tensor([1]), torch.arange(50, dtype=torch.int32)
    for law in LAWS:
        plain = tree.sample_children(logits, law, 3, seeds, positions)
        assert set(plain.draws.unique().tolist()) <= {3, 130, -1}
        mapped = tree.sample_children(logits, law, 3, seeds, positions, d2t=d2t)
        wanted = torch.where(plain.draws == 130, 1300, -1)
        assert torch.equal(mapped.draws, wanted.to(torch.int32))
        assert (plain.draws[:, 2] >= 0).all() == (law == "iid")


draws = st.lists(st.lists(st.integers(-1, 4), min_size=3, max_size=3), min_size=1, max_size=5)


@given(draws)
def test_merged_draws_keep_every_draw(rows: list[list[int]]) -> None:
    merged = tree.merge_draws(np.array(rows, np.int32))
    for r, own in enumerate(rows):
        part = merged.draw_node[merged.draw_indptr[r] : merged.draw_indptr[r + 1]]
        assert merged.tokens[part].tolist() == [v for v in own if v >= 0]
        assert (merged.row[part] == r).all()
        children = merged.tokens[merged.row == r].tolist()
        assert children == list(dict.fromkeys(v for v in own if v >= 0))
