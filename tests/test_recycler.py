# SPDX-License-Identifier: Apache-2.0
"""Contexts of several tokens and what followed them, against a plain dictionary of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep.draft import Recycler
from fewstep.drafters import ContextRecycling, TokenRecycling
from fewstep.language_model import Markov
from reference import recycler as reference

Rng = np.random.Generator


def random_trees(
    rng: Rng, order: int, width: int, V: int
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Return arguments of `observe`, and of the plain one."""
    trees: list[tuple[list[int], list[int], list[int]]] = []
    paths: list[list[int]] = []
    for _ in range(int(rng.integers(1, 4))):
        size = int(rng.integers(0 if trees else 1, 9))
        before = rng.integers(0, V, int(rng.integers(0, order))).tolist()
        parent = [-1, *(int(rng.integers(0, i)) for i in range(1, size))][:size]
        trees.append((before, rng.integers(0, V, size).tolist(), parent))
        path, at = [], 0
        while (below := [i for i in range(size) if parent[i] == at]) and rng.random() < 0.8:
            at = int(rng.choice(below))
            path.append(at)
        paths.append(path)
    sizes = [len(token) for _, token, _ in trees]
    N, D = sum(sizes), max(map(len, paths)) + 1
    ids = np.stack([rng.permutation(max(V, width))[:width] for _ in range(N)]).astype(np.int32)
    logits = -np.sort(-rng.normal(size=(N, width)).astype(np.float32) * 3, axis=1)
    for row in range(N):
        if rng.random() < 0.3:  # few tokens, as of a row with a mask
            ids[row, rng.integers(0, width) :] = -1
            logits[row, ids[row] < 0] = np.nan
        elif rng.random() < 0.3:
            logits[row] = 0.5  # of equal ones the first comes first
    followed = [int(rng.integers(-1, V)) for _ in trees]
    ends = [[-1] * (order - 1 - len(before)) + before for before, _, _ in trees]
    padded = [[*path, *[77] * (D - len(path))] for path in paths]
    return {
        "token": [t for _, token, _ in trees for t in token],
        "parent": [p for _, _, parent in trees for p in parent],
        "indptr": np.cumsum([0, *sizes]),
        "context": np.array(ends).reshape(len(trees), order - 1) if order > 1 else None,
        "ids": ids,
        "logits": logits,
        "path": padded,
        "accepted": [len(path) for path in paths],
        "next_token": followed,
    }, (trees, ids, logits, paths, followed)


def check_proposals(ours: Recycler, plain: reference.Recycler, rng: Rng, V: int) -> int:
    """Compare some, and return how many nodes they have."""
    total = 0
    for length in (0, 1, 2, 5, 7):
        context = rng.integers(0, V, length).tolist()
        depth, nodes = int(rng.integers(1, 7)), int(rng.integers(1, 40))
        least = float(rng.choice([0.0, 0.02, 0.3]))
        token, parent, score = ours.propose(context, depth=depth, least=least, max_nodes=nodes)
        wanted = plain.propose(context, depth, least, nodes)
        assert (token.tolist(), parent.tolist()) == wanted[:2]
        assert np.allclose(score, wanted[2], rtol=1e-6, atol=0)
        assert token.dtype == parent.dtype == np.int32
        assert score.dtype == np.float32
        assert (np.diff(score) <= 0).all()
        assert len(set(zip(parent.tolist(), token.tolist(), strict=True))) == len(token)
        total += len(token)
    return total


@pytest.mark.parametrize("capacity", [1, 23, 100000])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_proposals_are_those_of_a_dictionary(order: int, capacity: int) -> None:
    total = 0
    for seed in range(6):
        rng = np.random.default_rng([order, capacity, seed])
        V, width = int(rng.integers(3, 9)), int(rng.choice([1, 3, 16]))
        ours = Recycler(order, width, capacity)
        plain = reference.Recycler(order, width, capacity)
        for _ in range(25):
            if rng.random() < 0.3:
                text = rng.integers(0, V, int(rng.integers(0, 12))).tolist()
                ours.read(text)
                plain.read(text)
            else:
                given, same = random_trees(rng, order, width, V)
                ours.observe(**given)
                plain.observe(*same)
            assert len(ours) == len(plain.known) <= capacity
            total += check_proposals(ours, plain, rng, V)
    assert total > (600 if capacity == 1 else 1500)  # 600 of the proposals have a root


def test_more_contexts_than_the_first_table_has_places() -> None:
    rng = np.random.default_rng(7)
    for capacity in (500, 5000):
        ours, plain = Recycler(3, 4, capacity), reference.Recycler(3, 4, capacity)
        text = rng.integers(0, 60, 1500).tolist()
        ours.read(text)
        plain.read(text)
        assert len(ours) == len(plain.known) == min(capacity, len(plain.known))
        for end in plain.known:
            assert ours.propose(end, depth=2)[0].tolist() == plain.propose(end, 2, 0.02, 32)[0]


def observe_one(table: Recycler, root: int, guesses: list[int], followed: int) -> None:
    """Say that a root's likely successors are some, equally, and which one came."""
    table.observe(
        [root], [-1], [0, 1], ids=[guesses], logits=[[0.0] * len(guesses)],
        path=np.zeros((1, 0), np.int32), accepted=[0], next_token=[followed],
    )  # fmt: skip


def test_chances_are_calibrated_and_old_counts_halved() -> None:
    table, plain = Recycler(1, 2), reference.Recycler(1, 2, 65536)
    ids, none = np.array([[5, 6]]), np.zeros((1, 2))
    for step in range(1300):
        followed = 5 if step % 4 else 6
        observe_one(table, 3, [5, 6], followed)
        plain.observe([([], [3], [-1])], ids, none, [[]], [followed])
        if step in {0, 1, 5, 510, 511, 512, 513, 1299}:
            score = table.propose([3], least=0.0)[2]
            assert np.allclose(score, plain.propose([3], 16, 0.0, 32)[2], rtol=1e-6, atol=0)
    token, _, score = table.propose([3])
    assert token.tolist() == [3, 5, 6]
    assert np.allclose(score, [1, 0.75, 0.25], atol=0.01)
    # What has turned wrong is forgotten after some hundreds of trials.
    for _ in range(1500):
        observe_one(table, 3, [5, 6], 6)
    token, _, score = table.propose([3], least=0.0)
    assert token.tolist() == [3, 6, 5]
    assert score[1] > 0.95
    assert score[2] < 0.05


def test_a_model_is_believed_more_than_a_text_and_long_contexts_more_than_short() -> None:
    table = Recycler(2, 1)
    table.read([1, 2, 3])
    table.read([1, 2, 4])
    assert table.propose([1, 2], depth=1)[0].tolist() == [2, 4]
    table.observe(
        [2], [-1], [0, 1], context=[[9]], ids=[[7]], logits=[[0.0]],
        path=np.zeros((1, 0), np.int32), accepted=[0], next_token=[7],
    )  # fmt: skip
    table.read([8, 2, 5])
    assert table.propose([9, 2], depth=1)[0].tolist() == [2, 7]
    assert table.propose([0, 2], depth=1)[0].tolist() == [2, 7]  # backs off to what the model said
    assert table.propose([8, 2], depth=1)[0].tolist() == [2, 5]


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    table = Recycler(1, 2)
    table.observe(
        torch.tensor([2]), torch.tensor([-1]), torch.tensor([0, 1]), ids=torch.tensor([[4, 5]]),
        logits=torch.tensor([[1.0, 0.0]]), path=torch.zeros((1, 0), dtype=torch.int32),
        accepted=torch.tensor([0]), next_token=torch.tensor([4]),
    )  # fmt: skip
    assert table.propose(torch.tensor([2]), depth=1)[0].tolist() == [2, 4, 5]


V = 80
GREEDY = fewstep.Sampling(temperature=0, max_tokens=60)


def second_order() -> Markov:
    """Return a model whose next token is known from two tokens, not from one."""
    table = np.random.default_rng(11).normal(size=(V, V, V)).astype(np.float32)
    return Markov(table)


def run(drafter: Any, prompt: list[int], batch: int = 1) -> tuple[Any, fewstep.Generator]:
    generator = fewstep.Generator(second_order(), drafter=drafter, adapt=False, max_batch=batch)
    results = generator.generate([prompt] * batch, GREEDY)
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    return results, generator


def test_a_prompt_that_repeats_is_read() -> None:
    (plain,), _ = run(None, [1, 2])
    prompt = [1, 2, *plain.tokens]
    (known,), generator = run(ContextRecycling(max_nodes=8), [*prompt, 1, 2])
    assert known.tokens == plain.tokens
    assert generator.stats.tokens_per_call > 2
    # Single tokens do not tell what follows.
    (same,), single = run(ContextRecycling(order=1, max_nodes=8), [*prompt, 1, 2])
    assert same.tokens == plain.tokens
    assert single.stats.tokens_per_call < generator.stats.tokens_per_call


def test_what_the_model_said_serves_the_next_request() -> None:
    drafter = ContextRecycling(max_nodes=8)
    (first,), before = run(drafter, [1, 2])
    (second,), after = run(drafter, [1, 2])
    assert first.tokens == second.tokens
    assert after.stats.tokens_per_call > 3 > before.stats.tokens_per_call
    _, template = run(TokenRecycling(), [1, 2])
    assert after.stats.tokens_per_call > template.stats.tokens_per_call


def test_drafts_keep_to_their_limits() -> None:
    drafter = ContextRecycling(depth=3, max_nodes=4, least=0.0)
    results, generator = run(drafter, [4] * 12, batch=3)
    assert [result.tokens for result in results] == [results[0].tokens] * 3
    assert len(generator.stats.acceptance_by_depth) <= 3
    request: Any = type("Request", (), {"tokens": [4] * 5})
    drafts = drafter.draft([request, request, request], [0, 2, 9])
    assert drafts[0] is None
    for draft, depth in zip(drafts[1:], (2, 3), strict=True):
        assert draft is not None
        assert fewstep.tree.build(draft.parent).depth.max() == depth
        assert len(draft.token) <= 4
        assert draft.score is not None
    assert ContextRecycling().draft([request], [5]) == [None]  # nothing is known yet
