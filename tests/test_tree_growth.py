# SPDX-License-Identifier: Apache-2.0
"""``tree.expand`` and ``tree.rerank`` against EAGLE-2 in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import tree as cases
from fewstep import tree
from harness import Worker
from reference import tree_growth as reference
from test_step import rounded

VOCABULARIES = (1, 7, 64, 513, 1030, 5003)


def expanded(worker: Worker, case: dict[str, Any], k: int, beam: int, **options: Any) -> Any:
    """Run the op between guard bands."""
    dtype = options.pop("dtype", "float32")
    d2t = options.pop("d2t", None)
    rows, requests = len(case["logits"]), len(case["indptr"]) - 1
    return worker.run(
        op="tree.expand",
        inputs={
            "cum_logp": (case["cum_logp"], "float32"),
            "logits": (case["logits"], dtype),
            "indptr": (case["indptr"], "int32"),
            "d2t": None if d2t is None else (d2t, "int32"),
        },
        outputs={
            "ids": ((rows, k), "int32"),
            "logp": ((rows, k), "float32"),
            "beam_ids": ((requests, beam), "int32"),
            "beam_logp": ((requests, beam), "float32"),
            "beam_parent": ((requests, beam), "int32"),
            "status": ((rows,), "int32"),
        },
        options={"k": k},
        **options,
    )


@pytest.mark.parametrize("layout", cases.LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_expand_matches_reference(
    worker: Worker, vocabulary: int, dtype: str, layout: dict[str, int]
) -> None:
    case = cases.growth_case(len(dtype), vocabulary)
    case["logits"] = rounded(case["logits"], dtype).astype(np.float32)
    k, beam = (4, 7) if layout else (10, 3)
    d2t = np.random.default_rng(3).permutation(9 * vocabulary)[:vocabulary] if layout else None
    got = expanded(worker, case, k, beam, dtype=dtype, d2t=d2t, **layout)
    wanted = reference.expand(case["cum_logp"], case["logits"], k, beam, case["indptr"], d2t)
    for name in ("ids", "beam_ids", "beam_parent"):
        assert np.array_equal(got[name], wanted[name]), name
    for name in ("logp", "beam_logp"):
        finite = np.isfinite(wanted[name])
        assert np.array_equal(finite, np.isfinite(got[name]))
        error = np.abs(got[name][finite] - wanted[name][finite])
        # One rounding of the result, and of the sum of exponentials a few of 2^-24.
        assert (error <= 2.0**-24 * (np.abs(wanted[name][finite]) + 8)).all()
    dead = (case["logits"] == -np.inf).all(axis=1) & (case["cum_logp"] > -np.inf)
    assert np.array_equal(got["status"], np.where(dead, 3, 0))


def test_expand_has_the_same_bits_everywhere(workers: dict[str, Worker]) -> None:
    """On every ISA, on any number of threads, in any batch."""
    from conftest import ISAS

    case = cases.growth_case(2, 9001)
    results = [
        expanded(workers[isa], case, 8, 8, threads=threads, dtype="bfloat16")
        for isa in ISAS
        for threads in (1, 3)
    ]
    for other in results[1:]:
        assert all(np.array_equal(results[0][name], other[name]) for name in other)
    whole = expanded(workers[ISAS[0]], case, 8, 8)
    for b in range(len(case["indptr"]) - 1):
        part = slice(case["indptr"][b], case["indptr"][b + 1])
        alone = tree.expand(case["cum_logp"][part].copy(), case["logits"][part].copy(), 8)
        assert np.array_equal(alone.ids, whole["ids"][part])
        assert np.array_equal(alone.logp, whole["logp"][part])
        assert np.array_equal(alone.beam_logp[0], whole["beam_logp"][b])


@pytest.mark.parametrize("where", [0, 300, 511, 512, 700])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_expand_of_rows_without_a_law(worker: Worker, value: float, where: int) -> None:
    """A status and no children, never a wrong id; the rows beside are untouched."""
    rng = np.random.default_rng(9)
    logits = rng.normal(size=(4, 701)).astype(np.float32)
    wanted = tree.expand(np.zeros(4, np.float32), logits, 3)
    logits[1, where] = value
    logits[2] = -np.inf
    logits[2, where] = value if np.isnan(value) else -np.inf
    case = {"cum_logp": np.zeros(4, np.float32), "logits": logits}
    got = expanded(worker, case | {"indptr": np.arange(5, dtype=np.int32)}, 3, 3)
    assert got["status"].tolist() == [0, 1, 1, 0] if np.isnan(value) else [0, 2, 3, 0]
    assert (got["ids"][1:3] == -1).all()
    assert (got["beam_ids"][1:3] == -1).all()
    assert (got["logp"][1:3] == -np.inf).all()
    assert np.array_equal(got["ids"][[0, 3]], wanted.ids[[0, 3]])


@pytest.mark.parametrize("counts", [(16, 0, 1), (17, 40)])
def test_a_beam_of_many_children(worker: Worker, counts: tuple[int, ...]) -> None:
    """More than are chosen from at once, nearly all of them with ties."""
    rows = sum(counts)
    logits = np.random.default_rng(7).integers(0, 3, (rows, 70)).astype(np.float32)
    logits[:, 0] = 9.0
    ends = np.cumsum([0, *counts]).astype(np.int32)
    case = {"cum_logp": np.zeros(rows, np.float32), "logits": logits, "indptr": ends}
    got = expanded(worker, case, 64, 64)
    for b, count in enumerate(counts):
        own = slice(ends[b], ends[b + 1])
        best = reference.best(got["logp"][own].ravel(), 64)
        room = [-1] * (64 - len(best))
        assert len(best) == min(64, 64 * count)
        assert got["beam_parent"][b].tolist() == [i // 64 for i in best] + room
        assert got["beam_ids"][b].tolist() == got["ids"][own].ravel()[best].tolist() + room


def test_expand_takes_its_own_beam() -> None:
    """A beam with fewer nodes than its width is expanded as it came; torch tensors too."""
    torch = pytest.importorskip("torch")
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    first = tree.expand(torch.zeros(1), logits[:1], 5)
    assert (first.beam_ids >= 0).tolist() == [[True] * 3 + [False] * 2]
    rows = logits[1:].expand(5, 3).contiguous()
    second = tree.expand(first.beam_logp[0], rows, 3, beam=20)
    assert int((second.beam_parent[0] >= 0).sum()) == 9
    assert (second.ids[3:] == -1).all()
    assert not second.status.any()


def test_growth_is_that_of_eagle() -> None:
    """Whole trees: candidates of every level, the best of all, as the public code selects them."""
    torch = pytest.importorskip("torch")
    k, depth, total, vocabulary = 4, 3, 12, 50
    generator = torch.Generator().manual_seed(3)
    table = 2 * torch.randn(vocabulary, vocabulary, generator=generator)
    frontier, scores = [7], torch.zeros(1)
    tokens, logp, parents = [7], [0.0], [-1]
    numbers = [0]
    theirs: list[tuple[float, tuple[int, ...]]] = []
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, (7,))]
    for _ in range(depth):
        e = tree.expand(scores, table[frontier], k)
        first = len(tokens)
        for r, row in enumerate(e.ids.tolist()):
            tokens += row
            logp += e.logp[r].tolist()
            parents += [numbers[r]] * k
        chosen = [
            first + int(p) * k + e.ids[p].tolist().index(i)
            for p, i in zip(e.beam_parent[0].tolist(), e.beam_ids[0].tolist(), strict=True)
        ]
        numbers, frontier, scores = chosen, e.beam_ids[0].tolist(), e.beam_logp[0].clone()
        grown = []
        for score, path in beams:
            own = torch.log_softmax(table[path[-1]].double(), 0)
            top = torch.topk(own, k)
            for value, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                grown.append((score + value, (*path, token)))
        theirs += grown
        beams = sorted(grown, reverse=True)[:k]
    kept = tree.rerank(np.array(logp, np.float32), np.array(parents, np.int32), total + 1)
    paths = {tuple(tokens[j] for j in reversed(_line(parents, int(i)))) for i in kept.kept if i > 0}
    assert paths == {path for _, path in sorted(theirs, reverse=True)[:total]}


def _line(parents: list[int], node: int) -> list[int]:
    line = [node]
    while parents[line[-1]] >= 0:
        line.append(parents[line[-1]])
    return line


scores = st.sampled_from([-np.inf, np.nan, -3.0, -1.0, -0.5, 0.0, 1.0])
nodes = st.lists(st.tuples(st.integers(0, 2**16), scores), max_size=40)


@settings(max_examples=150)
@given(st.lists(st.tuples(nodes, st.integers(0, 45)), min_size=1, max_size=4))
def test_rerank_of_any_trees(batch: list[tuple[list[tuple[int, float]], int]]) -> None:
    """Also with scores that are not those of paths, ties and NaN: always a tree, the best one."""
    forest = [[-1] + [d % (i + 1) for i, (d, _) in enumerate(own)] for own, _ in batch]
    parent, indptr = cases.flat(forest)
    values = [np.array([np.nan, *(s for _, s in own)], np.float32) for own, _ in batch]
    budget = np.array([m for _, m in batch], np.int32)
    result = tree.rerank(np.concatenate(values), parent, budget, indptr=indptr)
    for b, (own, value) in enumerate(zip(forest, values, strict=True)):
        kept, parents = reference.rerank(value.tolist(), own, int(budget[b]))
        part = slice(result.indptr[b], result.indptr[b + 1])
        assert (result.kept[part] - indptr[b]).tolist() == kept
        assert result.parent[part].tolist() == parents


@pytest.mark.parametrize("layout", cases.LAYOUTS, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_rerank_matches_reference(worker: Worker, threads: int, layout: dict[str, int]) -> None:
    """Large trees, in memory of any layout; -1 behind what is kept."""
    rng = np.random.default_rng(12)
    forest = [cases.random_tree(rng, n) for n in (900, 1, 64, 2000)] + [[]]
    parent, indptr = cases.flat(forest)
    cum_logp = np.round(-rng.exponential(size=len(parent)), 2).astype(np.float32)
    budget = np.array([60, 1, 100, 0, 3], np.int32)
    result = worker.run(
        op="tree.rerank",
        inputs={
            "cum_logp": (cum_logp, "float32"),
            "parent": (parent, "int32"),
            "budget": (budget, "int32"),
            "indptr": (indptr, "int32"),
        },
        outputs={
            "kept": ((130,), "int32"),
            "kept_parent": ((130,), "int32"),
            "kept_indptr": ((6,), "int32"),
        },
        threads=threads,
        **layout,
    )
    assert result["kept_indptr"].tolist() == [0, 60, 61, 125, 125, 125]
    assert (result["kept"][125:] == -1).all()
    assert (result["kept_parent"][125:] == -1).all()
    for b, own in enumerate(forest):
        part = slice(indptr[b], indptr[b + 1])
        kept, parents = reference.rerank(cum_logp[part].tolist(), own, int(budget[b]))
        there = slice(result["kept_indptr"][b], result["kept_indptr"][b + 1])
        assert (result["kept"][there] - indptr[b]).tolist() == kept
        assert result["kept_parent"][there].tolist() == parents


def test_rerank_drops_unknown_tokens() -> None:
    """What `from_template` left without a token."""
    parent, rank = tree.TOKEN_RECYCLING
    table = np.full((10, 8), -1, np.int32)
    table[1, :3] = (2, 3, 4)
    table[2, 1] = 5
    tokens = tree.from_template(parent, rank, np.array([1], np.int32), table=table)[0]
    known = np.where(tokens >= 0, 0.0, -np.inf).astype(np.float32)
    result = tree.rerank(known, parent, 81)
    assert tokens[result.kept].tolist() == [1, 2, 3, 4, 5]
    assert result.parent.tolist() == [-1, 0, 0, 0, 1]
