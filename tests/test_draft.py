# SPDX-License-Identifier: Apache-2.0
"""Drafters that need no model, against plain models of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep
from cases import draft as cases
from fewstep.draft import Ngram, Trigram
from harness import Worker
from reference import draft as reference

TOKENS = st.lists(st.integers(0, 3), max_size=60)


def lists(tree: Any) -> tuple[list[int], list[int]]:
    token, parent = tree
    assert token.dtype == parent.dtype == np.int32
    return token.tolist(), parent.tolist()


def check_tree(token: list[int], parent: list[int], max_nodes: int, depth: int) -> None:
    """Parents before children, siblings distinct, within the limits."""
    assert len(token) <= max_nodes
    level = {-1: -1}
    for i, p in enumerate(parent):
        assert (p == -1) == (i == 0)
        assert p < i
        level[i] = level[p] + 1
    assert max(level.values()) <= depth
    edges = list(zip(parent, token, strict=True))
    assert len(set(edges)) == len(edges)


@pytest.mark.parametrize(("V", "K", "N"), cases.TABLES)
@pytest.mark.parametrize("gap", [0, 3])
def test_recycle(worker: Worker, V: int, K: int, N: int, gap: int) -> None:
    table, tokens, ids = cases.update(V, K, N)
    found = worker.run(
        op="draft.recycle",
        inputs={"tokens": (tokens, "int32"), "top_ids": (ids, "int32")},
        updated={"table": (table, "int32")},
        outputs={},
        gap=gap,
    )
    assert np.array_equal(found["table"], reference.recycle(table, tokens, ids))


def test_recycle_keeps_the_last() -> None:
    table = np.zeros((3, 1), np.int32)
    ids = np.array([[1], [2], [-1]], np.int32)
    fewstep.draft.recycle(table, np.array([1, 1, 2], np.int32), ids)
    assert table.tolist() == [[0], [2], [-1]]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("own", [True, False])
def test_ngram_is_the_plain_search(seed: int, own: bool) -> None:
    rng = np.random.default_rng([1, seed])
    text = cases.text(int(rng.integers(0, 200)), int(rng.integers(1, 9)), seed)
    n_min = int(rng.integers(1, 4))
    n_max = n_min + int(rng.integers(0, 4))
    context = None if own else cases.text(int(rng.integers(0, 12)), 4, seed + 100)
    store = Ngram(n_min, n_max)
    at = 0
    while at < len(text):  # in pieces, as a text grows
        step = int(rng.integers(1, 20))
        store.append(text[at : at + step])
        at += step
    assert len(store) == len(text)
    for max_tokens, branches, max_nodes in ((1, 1, 64), (10, 1, 64), (7, 4, 64), (9, 50, 12)):
        found = lists(
            store.propose(context, max_tokens=max_tokens, branches=branches, max_nodes=max_nodes)
        )
        sizes = (n_min, n_max, max_tokens, branches, max_nodes)
        assert found == reference.ngram(text, context, *sizes)
        check_tree(*found, max_nodes, max_tokens)


@settings(max_examples=200)
@given(TOKENS, st.integers(1, 3), st.integers(0, 2), st.integers(1, 5), st.integers(1, 6))
def test_ngram_of_any_text(text: list[int], n: int, more: int, branches: int, size: int) -> None:
    store = Ngram(n, n + more)
    store.append(text)
    found = lists(store.propose(max_tokens=5, branches=branches, max_nodes=size))
    assert found == reference.ngram(text, None, n, n + more, 5, branches, size)


def test_ngram_goes_on_with_a_repetition() -> None:
    store = Ngram(1, 3)
    store.append([1, 2, 3] * 3)
    token, parent = lists(store.propose(max_tokens=7))
    assert token == [3, 1, 2, 3, 1, 2, 3, 1]
    assert parent == [-1, 0, 1, 2, 3, 4, 5, 6]
    # Of a corpus only what it holds is proposed.
    corpus = Ngram(1, 3)
    corpus.append([7, 8, 9])
    assert lists(corpus.propose([1, 8], max_tokens=5)) == ([8, 9], [-1, 0])
    assert lists(corpus.propose([1, 9], max_tokens=5)) == ([9], [-1])
    assert lists(corpus.propose([], max_tokens=5)) == ([], [])
    assert lists(Ngram().propose()) == ([], [])


@pytest.mark.parametrize("seed", range(25))
def test_trigram_is_the_plain_search(seed: int) -> None:
    rng = np.random.default_rng([2, seed])
    ours, plain = Trigram(), reference.Trigram()
    for part in range(3):
        text = cases.text(int(rng.integers(0, 150)), int(rng.integers(1, 7)), seed + 50 * part)
        ours.observe(text)
        plain.observe(text)
    assert len(ours) == len(plain.counts)
    for (a, b), after in plain.counts.items():
        for c, count in after.items():
            assert ours.count(a, b, c) == count
    for context in ([], [1], [0, 1], [9, 0, 0], [500, 501], text[:2]):
        for exploration, iterations, nodes in ((0.0, 10, 64), (1.0, 200, 64), (3.0, 60, 9)):
            arguments = (int(rng.integers(1, 7)), int(rng.integers(1, 9)))
            sizes = dict(zip(("depth", "width"), arguments, strict=True))
            found = lists(
                ours.propose(
                    context,
                    iterations=iterations,
                    exploration=exploration,
                    max_nodes=nodes,
                    **sizes,
                )
            )
            wanted = plain.propose(context, *arguments, iterations, exploration, nodes)
            assert found == wanted
            check_tree(*found, nodes, arguments[0])


def test_trigram_explores_what_is_less_likely() -> None:
    counts = Trigram()
    counts.observe([1, 2, 3] * 9 + [1, 2, 4])
    narrow = lists(counts.propose([1, 2], depth=3, iterations=3, exploration=0.0, max_nodes=3))
    wide = lists(counts.propose([1, 2], depth=3, iterations=50, exploration=5.0, max_nodes=9))
    assert 4 not in narrow[0]
    assert 4 in wide[0]
    assert counts.count(1, 2, 5) == counts.count(8, 8, 8) == 0


def test_drafters_take_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    store = Ngram()
    store.append(torch.tensor([4, 5, 4]))
    assert lists(store.propose(max_tokens=2)) == ([4, 5, 4], [-1, 0, 1])
