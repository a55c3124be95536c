# SPDX-License-Identifier: Apache-2.0
"""What a generator's call asks of C++ at once is what the parts give one by one."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep import _core
from fewstep.drafters import Draft


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


FITTING: dict[str, Any] = {
    "token": ints(5, 6, 9), "parent": ints(-1, 0, 0), "score": None, "index": None, "root": 5,
    "n_vocab": 10, "most": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"score": np.ones(3, np.float32)},
        {"index": ints(7, -1, 7)},
        {"token": ints(5), "parent": ints(-1)},
        {"parent": ints(-1, 0, 1)},
    ],
)
def test_drafts_fit(changed: dict[str, Any]) -> None:
    assert _core.draft_fits(**(FITTING | changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"token": [5, 6, 9]},
        {"token": FITTING["token"].astype(np.int64)},
        {"token": FITTING["token"][None]},
        {"token": ints(), "parent": ints()},
        {"token": ints(5, 6), "parent": ints(-1, 0, 1)},
        {"parent": FITTING["parent"][None]},
        {"parent": ints(0, 0, 0)},
        {"parent": ints(-1, 1, 0)},
        {"parent": ints(-1, 0, -1)},
        {"parent": ints(-1, -1, 0)},
        {"token": ints(5, -1, 9)},
        {"n_vocab": 9},
        {"root": 6},
        {"most": 2},
        {"score": np.ones(2, np.float32)},
        {"score": np.ones(3)},
        {"index": np.ones((3, 1), np.int32)},
    ],
)
def test_drafts_do_not_fit(changed: dict[str, Any]) -> None:
    assert not _core.draft_fits(**(FITTING | changed))


def some_tree(rng: np.random.Generator, nodes: int) -> np.ndarray:
    return ints(-1, *(int(rng.integers(0, i)) for i in range(1, nodes)))


@pytest.mark.parametrize("sizes", [[1], [5], [32], [40], [1, 1], [64, 2], [3, 70, 1, 12]])
@pytest.mark.parametrize("chains", [False, True])
def test_layout(sizes: list[int], chains: bool) -> None:
    rng = np.random.default_rng(6)
    trees = [np.arange(-1, n - 1, dtype=np.int32) if chains else some_tree(rng, n) for n in sizes]
    laid = _core.tree_layout(tuple(tree.tobytes() for tree in trees))
    parent, indptr, begins, lengths, depth, bits, inner, deepest = laid
    built = fewstep.tree.build(np.concatenate(trees), indptr)
    np.testing.assert_array_equal(parent, np.concatenate(trees))
    assert indptr.tolist() == begins == [0, *np.cumsum(sizes).tolist()]
    assert lengths.tolist() == sizes
    assert deepest == built.depth.max()
    # Below each root, the nodes that are someone's parent.
    assert inner == [i in tree.tolist() for tree in trees for i in range(len(tree))]
    if all((np.diff(tree) == 1).all() for tree in trees):
        assert depth is None
        assert bits is None
    else:
        np.testing.assert_array_equal(depth, built.depth)
        np.testing.assert_array_equal(bits, built.bits)


def call(rng: np.random.Generator, rows: int, n_vocab: int = 50) -> dict[str, Any]:
    """Draw a call of two requests, the first of which accepted a node."""
    return {
        "token": rng.integers(0, n_vocab, rows).astype(np.int32),
        "parent": ints(-1, *range(rows - 3), -1, 0),
        "indptr": ints(0, rows - 2, rows),
        "path": ints(1, 0).reshape(2, 1),
        "accepted": ints(1, 0),
        "next_token": rng.integers(0, n_vocab, 2).astype(np.int32),
    }


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "pair"])
def test_a_recycler_observes_a_call(order: int, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(order)
    parts, whole = (_core.Recycler(order, 4, 1000) for _ in range(2))
    texts = [[3], [7, 1, 4, 1, 5]]  # the first has no contexts
    for _ in range(20):
        seen = call(rng, 8)
        logits: Any = torch.from_numpy(rng.normal(size=(8, 50)).astype(np.float32) * 4)
        logits = logits.bfloat16() if dtype == "bfloat16" else logits
        ids, values = (array.numpy() for array in fewstep.logits.top_k(logits, 4))
        context = np.array([[-1, -1], [4, 1]], np.int32)[:, 2 - (order - 1) :]
        verdict = seen["path"], seen["accepted"], seen["next_token"]
        nodes = seen["token"], seen["parent"], seen["indptr"]
        parts.observe(*nodes, context if order > 1 else None, ids, values, *verdict)
        given = (ids, values) if dtype == "pair" else logits
        whole.observe_call(texts, *nodes, given, *verdict)
        for end in ([int(seen["token"][0])], [1, 5, int(seen["token"][-1])]):
            ours, theirs = (table.propose(end, 8, 0.01, 32) for table in (whole, parts))
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, other)
    assert len(whole) == len(parts) > 20


def test_a_recycler_refuses_a_call() -> None:
    seen, table = call(np.random.default_rng(0), 8), _core.Recycler(2, 4, 100)
    logits = np.zeros((8, 50), np.float32)
    start = "fewstep_recycler_observe: "
    for changed, message in (
        ({"texts": [[1]]}, "'indptr' must have shape [2], got [3]"),
        ({"accepted": ints(1)}, "'accepted' must have shape [2], got [1]"),
        ({"logits": (np.zeros((8, 3), np.int32), logits[:, :3])},
         "'ids' must have shape [8, 4], got [8, 3]"),
        ({"logits": (np.zeros((8, 4), np.int32), logits[:, :4])},
         "'ids' must differ in a row, got 0 again at [0, 1]"),
    ):  # fmt: skip
        given: dict[str, Any] = {"texts": [[1], [2]], "logits": logits, **seen} | changed
        with pytest.raises(ValueError, match=f"^{re.escape(start + message)}$"):
            table.observe_call(**given)
    assert len(table) == 0


def test_a_table_takes_the_best_of_logits() -> None:
    rng = np.random.default_rng(0)
    whole, parts = np.full((2, 50, 6), -1, np.int32)
    for _ in range(5):
        tokens = rng.integers(0, 50, 7).astype(np.int32)
        logits = rng.normal(size=(7, 50)).astype(np.float32)
        _core.draft_recycle_best(whole, tokens, logits)
        fewstep.draft.recycle(parts, tokens, fewstep.logits.top_k(logits, 6)[0])
    np.testing.assert_array_equal(whole, parts)
    assert (whole >= 0).any()
    width = "must have 1 to 1024 tokens in a row, got 0"
    for table, tokens, message in (
        (whole, ints(1, 2, 3), "must have shape [R=7, K], got [3, 6]"),
        (whole, np.array(1, np.int32), "must have shape [R=7, K], got [0, 6]"),
        (whole[0], ints(*range(7)), width),
        (np.array(1, np.int32), ints(*range(7)), width),
    ):
        message = f"fewstep_logits_top_k: 'ids' {message}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            _core.draft_recycle_best(table, tokens, logits)
    np.testing.assert_array_equal(whole, parts)


def pool_of(*lengths: int) -> tuple[_core.KvPool, list[int]]:
    pool = _core.KvPool(16, 4)
    sequences = [pool.add(ints())[0] for _ in lengths]
    for sequence, length in zip(sequences, lengths, strict=True):
        pool.extend(sequence, length)
    return pool, sequences


def test_rows_of_sequences() -> None:
    pool, sequences = pool_of(9, 5)
    laid = pool.rows(sequences, [6, 4], [1, 2, 3, 4], ints(0, 3, 4))
    assert laid is not None
    tokens, lengths, table, counts, after = laid
    assert (tokens.tolist(), tokens.dtype) == ([1, 2, 3, 4], np.int64)
    assert (lengths.tolist(), lengths.dtype) == ([6, 4], np.int32)
    np.testing.assert_array_equal(table, pool.page_table(sequences, -1))
    assert (counts, after) == ([3, 1], [9, 5])
    for before, indptr in (
        ([6, 4], ints(0, 4)), ([6, 4], ints(0, 4, 4)), ([6, 4], ints(1, 3, 4)),
        ([6, 4], ints(0, 3, 5)), ([7, 4], ints(0, 3, 4)), ([6, 4], ints(0, 3, 4)[None]),
        ([6], ints(0, 3, 4)), ([6, 4, 4], ints(0, 3, 4)),
    ):  # fmt: skip
        assert pool.rows(sequences, before, ints(1, 2, 3, 4), indptr) is None


def test_kept_paths() -> None:
    pool, sequences = pool_of(9, 5)
    kept = pool.kept(sequences, [9, 5], ints(1, 2, 1, 0).reshape(2, 2), ints(2, 1), ints(4, 2))
    assert kept is not None
    assert (kept[0], kept[1].tolist(), kept[2]) == (False, [5, 3], [8, 5])
    kept = pool.kept(sequences, [9, 5], [[1, 3], [0, 0]], [2, 0], [4, 5])
    assert kept is not None
    assert (kept[0], kept[1].tolist(), kept[2]) == (True, [5, 0], [8, 1])
    kept = pool.kept(sequences, [9, 5], [[2], [1]], [1, 1], [4, 2])  # the first one's alone move
    assert kept is not None
    assert (kept[0], kept[1].tolist(), kept[2]) == (True, [5, 3], [7, 5])
    path = ints(1, 2, 1, 0).reshape(2, 2)
    for wrong in (
        (path[0], ints(2, 1), ints(4, 2)), (path, ints(2), ints(4, 2)), (path, ints(2, 1), ints(4)),
        (path, ints(3, 1), ints(4, 2)), (path, ints(-1, 1), ints(4, 2)),
        (path, ints(2, 1), ints(10, 2)), (path, ints(2, 1), ints(2, 2)),
        (path, ints(2, 0), ints(4, 0)), (path + ints(3, 0), ints(1, 1), ints(4, 2)),
        (path[:1], ints(2, 1), ints(4, 2)),
        (path, ints(2, 1)[:, None], ints(4, 2)), (path, ints(2, 1), ints(4, 2)[:, None]),
    ):  # fmt: skip
        assert pool.kept(sequences, [9, 5], *wrong) is None
    for lengths in ([9], [9, 5, 5]):
        assert pool.kept(sequences, lengths, path, ints(2, 1), ints(4, 2)) is None


def test_what_owners_have() -> None:
    first, second = object(), object()
    owners = [{"a": SimpleNamespace(b=first)}, {"a": SimpleNamespace(b=second)}]
    assert _core.have_same(owners, "a", "b", [first, second])
    assert _core.have_same(owners, "a", None, [owner["a"] for owner in owners])
    assert not _core.have_same(owners, "a", "b", [first, first])
    assert not _core.have_same(owners, "a", "b", [first])
    assert not _core.have_same(owners, "a", "c", [first, second])
    assert not _core.have_same(owners, "c", None, [first, second])


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_a_template_is_filled_from_a_table(limit: int) -> None:
    """As `tree.from_template` does, but for what has no token, lies too deep, or below such."""
    rng = np.random.default_rng(limit)
    parent, rank = fewstep.tree.template(
        [(0,), (1,), (2,), (0, 0), (0, 1), (2, 0), (0, 0, 0), (2, 0, 1), (0, 0, 0, 0)]
    )
    depth = fewstep.tree.build(parent).depth.tolist()
    counts = set()
    for _ in range(100):
        table = rng.integers(-2, 12, (12, 3)).clip(-1).astype(np.int32)
        root = int(rng.integers(12))
        filled = fewstep.tree.from_template(parent, rank, np.array([root], np.int32), table=table)
        fits = [one >= 0 and d <= limit for one, d in zip(filled[0].tolist(), depth, strict=True)]
        found = _core.draft_recycled(table, parent, rank, root, limit)
        want = Draft(filled[0], parent).subset(fits)
        counts.add(len(want.token))
        if len(want.token) == 1:
            assert found is None
            continue
        assert found is not None
        for got, exact in zip(found, (want.token, want.parent, want.index), strict=True):
            assert (got is None and exact is None) or np.array_equal(got, exact)
    assert len(counts) > 2
    for root in (12, -1):
        assert _core.draft_recycled(table, parent, rank, root, 9) is None
    assert _core.draft_recycled(table, parent, rank[:1], 0, 9) is None
