# SPDX-License-Identifier: Apache-2.0
"""``tree.build`` and ``tree.from_template`` against walks over the parents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep
from cases import tree as cases
from fewstep import tree
from harness import Worker
from reference import trees as reference

FORESTS = cases.forests()
COLUMNS = ("depth", "first_child", "next_sibling", "positions")


def built(worker: Worker, forest: list[list[int]], threads: int = 1, **layout: int) -> Any:
    """Run the op between guard bands; bits are returned as uint32."""
    parent, indptr = cases.flat(forest)
    count, words = len(parent), cases.words(forest)
    base = np.arange(len(forest), dtype=np.int32) * 100
    result = worker.run(
        op="tree.build",
        inputs={"parent": (parent, "int32"), "indptr": (indptr, "int32"), "base": (base, "int32")},
        outputs={name: ((count,), "int32") for name in COLUMNS}
        | {"bits": ((count, words), "int32")},
        threads=threads,
        **layout,
    )
    result["bits"] = result["bits"].view(np.uint32)
    return result


@pytest.mark.parametrize("layout", cases.LAYOUTS, ids=str)
@pytest.mark.parametrize("name", FORESTS)
def test_build_matches_reference(worker: Worker, name: str, layout: dict[str, int]) -> None:
    forest = FORESTS[name]
    wanted = reference.build(forest, [100 * b for b in range(len(forest))], cases.words(forest))
    got = built(worker, forest, **layout)
    for key, values in wanted.items():
        assert np.array_equal(got[key], values), key


@pytest.mark.parametrize("name", ["many", "large"])
def test_build_on_any_number_of_threads(worker: Worker, name: str) -> None:
    one = built(worker, FORESTS[name])
    for threads in (2, 5):
        other = built(worker, FORESTS[name], threads=threads)
        assert all(np.array_equal(one[key], other[key]) for key in one)


# The size first: lists alone are seldom longer than a word of bits.
trees = (
    st.integers(0, 75)
    .flatmap(lambda n: st.lists(st.integers(0, 2**16), min_size=n, max_size=n))
    .map(lambda draws: [-1] + [d % (i + 1) for i, d in enumerate(draws)])
)


@settings(max_examples=60)
@given(st.lists(trees, min_size=1, max_size=4), st.booleans())
def test_build_of_any_trees(forest: list[list[int]], torch_kind: bool) -> None:
    """Bits are those of a brute-force walk, links lead back to the parents."""
    parent, indptr = cases.flat(forest)
    if torch_kind:
        torch = pytest.importorskip("torch")
        result = tree.build(torch.from_numpy(parent), torch.from_numpy(indptr))
        assert result.bits.dtype == torch.int32
        result = tree.Tree(*(t.numpy() for t in result))
    else:
        result = tree.build(parent, indptr)
        assert result.bits.dtype == np.uint32
    wanted = reference.build(forest, [0] * len(forest), cases.words(forest))
    for key, values in wanted.items():
        assert np.array_equal(getattr(result, key).view(values.dtype), values)
    for b, own in enumerate(forest):
        begin = indptr[b]
        found = [-1] * len(own)
        for i in range(len(own)):
            child = int(result.first_child[begin + i])
            while child >= 0:
                found[child] = i
                child = int(result.next_sibling[begin + child])
        assert found == list(own)


def test_build_does_not_depend_on_the_batch() -> None:
    forest = FORESTS["words"]
    parent, indptr = cases.flat(forest)
    together = tree.build(parent, indptr)
    for b, own in enumerate(forest):
        alone = tree.build(np.array(own, np.int32))
        part = slice(indptr[b], indptr[b + 1])
        for name in COLUMNS:
            assert np.array_equal(getattr(alone, name), getattr(together, name)[part])
        words = alone.bits.shape[1]
        assert np.array_equal(alone.bits, together.bits[part, :words])
        assert not together.bits[part, words:].any()


def test_build_with_few_outputs() -> None:
    """C callers may want depths alone, or wider rows of bits."""
    parent, indptr = cases.flat(FORESTS["words"])
    wide = np.full((len(parent), 5), 7, np.int32)
    result = tree.build(parent, indptr, bits=wide, max_depth=64)
    assert result.bits is wide
    assert not wide[:, 3:].any()
    depth = np.empty(len(parent), np.int32)
    fewstep._core.tree_build(parent, indptr, None, -1, depth, None, None, None, None)
    assert np.array_equal(depth, result.depth)


@pytest.mark.parametrize("layout", cases.LAYOUTS, ids=str)
@pytest.mark.parametrize("source", ["table", "heads"])
@pytest.mark.parametrize("seed", range(12))
def test_from_template_matches_reference(
    worker: Worker, seed: int, source: str, layout: dict[str, int]
) -> None:
    case = cases.template_case(seed)
    inputs = {name: case[name] for name in ("parent", "rank", "root", source)}
    shape = (len(case["root"]), len(case["parent"]))
    result = worker.run(
        op="tree.from_template",
        inputs={name: (values, "int32") for name, values in inputs.items()},
        outputs={"tokens": (shape, "int32")},
        threads=1 + seed % 2,
        **layout,
    )
    assert np.array_equal(result["tokens"], reference.from_template(**inputs))


def test_from_template_of_token_recycling() -> None:
    """The published tree: 80 nodes in 6 levels, and every path a chain of look-ups."""
    parent, rank = tree.TOKEN_RECYCLING
    depth = tree.build(parent).depth
    assert np.bincount(depth).tolist() == [1, 8, 21, 25, 15, 8, 3]
    rng = np.random.default_rng(4)
    table = rng.integers(0, 1000, (1000, 8)).astype(np.int32)
    tokens = tree.from_template(parent, rank, np.array([7], np.int32), table=table)[0]
    assert tokens[-1] == table[table[table[table[table[table[7, 0], 0], 0], 1], 0], 0]
    assert (tokens >= 0).all()
    big = np.tile(np.array([3, 999], np.int32), 200)
    many = tree.from_template(parent, rank, big, table=table)
    assert np.array_equal(many, reference.from_template(parent, rank, big, table))


def test_template_of_paths() -> None:
    parent, rank = tree.template([(2,), (0, 1), (0,), (0, 1, 3)])
    assert parent.tolist() == [-1, 0, 0, 1, 3]
    assert rank.tolist() == [0, 0, 2, 1, 3]
    with pytest.raises(ValueError, match=r"'paths' must differ, got \(1,\) twice"):
        tree.template([(1,), (1,)])
    with pytest.raises(ValueError, match=r"got \(0, 1\) without \(0,\)"):
        tree.template([(0, 1)])
