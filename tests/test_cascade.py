# SPDX-License-Identifier: Apache-2.0
"""Trees that grow by a recycler and a model, against plain ones; and the drafter that has both."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep.draft import Cascade, Recycler
from fewstep.language_model import Markov
from fewstep.transformers import PagedModel
from hf_models import VOCABULARY, model_of
from reference.cascade import Cascade as Plain
from reference.recycler import Recycler as PlainRecycler

Path = tuple[int, ...]


def paths_of(token: Sequence[int], parent: Sequence[int]) -> list[Path]:
    """Return the tokens from below the root to each node."""
    paths: list[Path] = []
    for t, p in zip(token, parent, strict=True):
        paths.append(() if p < 0 else (*paths[p], t))
    return paths


def learned(rng: np.random.Generator, order: int, V: int) -> tuple[Recycler, PlainRecycler]:
    """Return two tables that have read and observed the same."""
    width = 3
    ours, plain = Recycler(order, width), PlainRecycler(order, width, 65536)
    text = rng.integers(0, V, 30).tolist()
    ours.read(text)
    plain.read(text)
    for _ in range(15):
        root, after = (int(t) for t in rng.integers(0, V, 2))
        before = rng.integers(0, V, order - 1).tolist()
        ids = rng.permutation(V)[None, :width].astype(np.int32)
        logits = -np.sort(-rng.normal(size=(1, width)).astype(np.float32))
        ours.observe(
            [root], [-1], [0, 1], context=[before] if order > 1 else None, ids=ids, logits=logits,
            path=np.zeros((1, 0), np.int32), accepted=[0], next_token=[after],
        )  # fmt: skip
        plain.observe([(before, [root], [-1])], ids, logits, [[]], [after])
    return ours, plain


@pytest.mark.parametrize("room", [1, 7, 200])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_trees_are_those_of_plain_ones(order: int, room: int) -> None:
    grown = asked = 0
    for seed in range(12):
        rng = np.random.default_rng([order, room, seed])
        V = 9
        known, same = learned(rng, order, V)
        ours, plain = Cascade(known, room), Plain(same, room)
        for _ in range(3):
            context = rng.integers(0, V, int(rng.integers(1, 5))).tolist()
            depth, least = int(rng.integers(1, 6)), float(rng.choice([0.0, 0.02, 0.2]))
            ours.begin(context, depth=depth, least=least)
            plain.begin(context, depth, least)
            for _ in range(4):
                most = int(rng.integers(1, 4))
                question = ours.ask(most, least=0.03)
                run, at, chance = plain.ask(most, 0.03)
                assert question.run.tolist() == run
                assert question.asked.tolist() == at
                assert question.chance == pytest.approx(chance, abs=1e-5)
                nodes = [plain.nodes[i] for i in run]
                assert question.token.tolist() == [
                    node[-1] if node else context[-1] for node in nodes
                ]
                places = {node: i for i, node in enumerate(plain.nodes)}
                wanted = [places[node[:-1]] if node else -1 for node in nodes]
                assert question.parent.tolist() == wanted
                ids = np.stack([rng.permutation(V)[:4] for _ in at] or [np.zeros(4)])[: len(at)]
                logits = rng.normal(size=(len(at), V)) * 2
                law = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                logp = np.take_along_axis(law, ids.astype(int), -1).astype(np.float32)
                if seed % 3 == 0 and len(at):
                    ids[:, -1] = -1
                    logp[:, -1] = -np.inf
                if not len(at):
                    break
                gained = ours.answer(ids.astype(np.int32), logp)
                told = [plain.answer(i, *rows) for i, *rows in zip(at, ids, logp, strict=True)]
                assert gained == pytest.approx(sum(told), rel=1e-4, abs=1e-6)
                asked += len(at)
            for max_nodes in (1, 5, 300):
                token, parent, score = ours.take(max_nodes)
                found = dict(zip(paths_of(token, parent), score.tolist(), strict=True))
                wanted_nodes = plain.take(max_nodes)
                assert len(found) == len(token) == len(wanted_nodes) <= room
                # Of nodes within rounding either may be the last.
                assert sorted(found.values()) == pytest.approx(
                    sorted(wanted_nodes.values()), rel=1e-4, abs=1e-6
                )
                if max_nodes == 300:
                    assert found == pytest.approx(wanted_nodes, rel=1e-4, abs=1e-6)
                assert (np.diff(score) <= 0).all()
                assert token[0] == context[-1]
            grown += len(token)
    assert grown > {1: 35, 7: 120, 200: 200}[room]
    assert asked > {1: 20, 7: 60, 200: 60}[room]


def test_shares_of_the_rest_sum_to_it() -> None:
    known = Recycler(order=1)
    known.read([1, 2])
    tree = Cascade(known)
    tree.begin([1], depth=1, least=0.0)
    assert tree.ask(1).chance == pytest.approx(0.3)
    # 2 is known with 0.7; to the model it has 0.5, and the others half of the rest each.
    assert tree.answer([[2, 3, 4]], np.log([[0.5, 0.25, 0.25]])) == pytest.approx(0.3)
    token, _, score = tree.take()
    assert dict(zip(token.tolist(), score.tolist(), strict=True)) == pytest.approx(
        {1: 1.0, 2: 0.7, 3: 0.15, 4: 0.15}
    )


def test_a_context_without_tokens_has_no_tree() -> None:
    tree = Cascade(Recycler())
    tree.begin([])
    assert tree.ask().asked.size == 0
    assert tree.take()[0].size == 0


CASCADE = "fewstep_cascade_"


def asked_once() -> Cascade:
    tree = Cascade(Recycler())
    tree.begin([3])
    tree.ask(1)
    return tree


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Cascade(Recycler(), room=0),
            CASCADE + "create: 'room' must be 1 or more, got 0",
        ),
        (
            lambda: asked_once().begin([1, -1]),
            "fewstep.draft.Cascade.begin: 'context' must lie in [0, 2147483647], got -1",
        ),
        (
            lambda: asked_once().begin([1], depth=0),
            CASCADE + "begin: 'depth' must be 1 or more, got 0",
        ),
        (
            lambda: asked_once().begin([1], least=1.5),
            CASCADE + "begin: 'least' must lie in [0, 1], got 1.5",
        ),
        (lambda: asked_once().ask(0), CASCADE + "ask: 'most' must be 1 or more, got 0"),
        (
            lambda: asked_once().ask(1, least=-1.0),
            CASCADE + "ask: 'least' must lie in [0, 1], got -1",
        ),
        (
            lambda: asked_once().answer([[1, -2]], [[0.0, 0.0]]),
            CASCADE + "answer: 'ids' must be -1 or more, got -2 at 1",
        ),
        (
            lambda: asked_once().answer([[1, 2]], [[0.0, 0.5]]),
            CASCADE + "answer: 'logp' must be 0 or less, got 0.5 at 1",
        ),
        (
            lambda: asked_once().answer([[1, 2]], [[0.0, np.nan]]),
            CASCADE + "answer: 'logp' must be 0 or less, got nan at 1",
        ),
        (
            lambda: asked_once().answer(np.zeros((0, 2)), np.zeros((0, 2))),
            CASCADE + "answer: 'ids' and 'logp' must have a row for each of 1 nodes and the same "
            "columns",
        ),
        (lambda: asked_once().take(0), CASCADE + "take: 'capacity' must be 1 or more, got 0"),
        (
            lambda: fewstep.drafters.Cascade(Markov(np.eye(4)), asks=0),
            "fewstep.drafters.Cascade: 'asks' must be from 1 to 64, got 0",
        ),
        (
            lambda: fewstep.drafters.Cascade(Markov(np.eye(4)), calls=65),
            "fewstep.drafters.Cascade: 'calls' must be from 1 to 64, got 65",
        ),
        (
            lambda: fewstep.drafters.Cascade(Markov(np.eye(4)), order=9),
            "fewstep_recycler_create: 'order' must lie in [1, 4], got 9",
        ),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


class Counting(Markov):
    """Counts the calls and their rows."""

    calls = rows = 0

    def forward(self, sequences: Any, tokens: Any, indptr: Any, **options: Any) -> Any:
        self.calls += 1
        self.rows += len(tokens)
        return super().forward(sequences, tokens, indptr, **options)


def cycle(V: int = 8) -> Any:
    """After t comes t + 1."""
    return np.roll(np.eye(V, dtype=np.float32) * 9, 1, axis=1)


GREEDY = fewstep.Sampling(temperature=0, max_tokens=40)


def test_the_model_is_asked_where_contexts_do_not_know() -> None:
    draft = Counting(cycle())
    drafter = fewstep.drafters.Cascade(draft, adapt=False, calls=3)
    generator = fewstep.Generator(Markov(cycle()), drafter=drafter, adapt=False)
    (result,) = generator.generate([[1]], GREEDY)
    assert result.tokens == [t % 8 for t in range(2, 42)]
    # Three tokens of the model, then those that were seen of the cycle, which soon are all.
    assert result.drafted[:5] == [True, True, True, False, True]
    assert result.calls < 9


def test_accepted_rows_are_not_run_again() -> None:
    draft = Counting(cycle())
    drafter = fewstep.drafters.Cascade(draft, adapt=False, calls=1, asks=1, children=1, depth=1)
    generator = fewstep.Generator(Markov(cycle()), drafter=drafter, adapt=False)
    prompt = [0] * 30 + [1]
    (result,) = generator.generate([prompt], GREEDY)
    assert result.tokens == [t % 8 for t in range(2, 42)]
    assert draft.rows <= len(prompt) + len(result.tokens)


class Slow(Counting):
    """Takes some time, and at one call more."""

    seconds, once, extra = 0.02, -1, 0.0

    def forward(self, *args: Any, **options: Any) -> Any:
        time.sleep(self.seconds + (self.extra if self.calls == self.once else 0.0))
        return super().forward(*args, **options)


def test_a_call_that_was_kept_waiting_is_not_the_last() -> None:
    """Where its time is taken for that of all calls, none seems to pay from then on."""
    rng = np.random.default_rng(3)
    table = rng.normal(size=(16, 16)).astype(np.float32) * 3
    target, draft = Slow(table), Slow(table)
    target.seconds, draft.seconds, draft.once, draft.extra = 0.01, 0.0, 12, 0.5
    drafter = fewstep.drafters.Cascade(draft, order=1)
    generator = fewstep.Generator(target, drafter=drafter, adapt=False)
    generator.generate([[1]], fewstep.Sampling(temperature=1.0, seed=2, max_tokens=400))
    assert draft.calls > 20


def test_nothing_is_asked_that_takes_longer_than_it_brings() -> None:
    rng = np.random.default_rng(3)
    target = Markov(rng.normal(size=(16, 16, 16)).astype(np.float32) * 3)
    slow = Slow(rng.normal(size=(16, 16)).astype(np.float32))
    drafter = fewstep.drafters.Cascade(slow)
    generator = fewstep.Generator(target, drafter=drafter, adapt=False)
    (result,) = generator.generate([[1]], fewstep.Sampling(temperature=1.0, seed=2, max_tokens=200))
    assert slow.calls < result.calls / 4
    eager = fewstep.drafters.Cascade(Counting(slow.table), adapt=False)
    again = fewstep.Generator(target, drafter=eager, adapt=False)
    (same,) = again.generate([[1]], fewstep.Sampling(temperature=1.0, seed=2, max_tokens=200))
    assert same.tokens == result.tokens
    assert eager.model.calls > same.calls  # type: ignore[attr-defined]


def test_a_model_without_room_costs_its_answers_alone() -> None:
    draft = Counting(cycle(), room=12)
    drafter = fewstep.drafters.Cascade(draft, adapt=False)
    generator = fewstep.Generator(Markov(cycle()), drafter=drafter, adapt=False)
    results = generator.generate([[1], [2, 3], [5]], GREEDY)
    assert [r.tokens[:3] for r in results] == [[2, 3, 4], [4, 5, 6], [6, 7, 0]]
    assert all(len(r.tokens) == 40 for r in results)
    assert generator.stats.drafter_errors == 0
    assert draft.calls > 0


def test_a_model_that_fails_costs_drafts_alone() -> None:
    class Failing(Counting):
        def forward(self, *args: Any, **options: Any) -> Any:
            if self.calls in (1, 2):
                self.calls += 1
                raise RuntimeError("no")
            return super().forward(*args, **options)

    drafter = fewstep.drafters.Cascade(Failing(cycle()), adapt=False, depth=2)
    generator = fewstep.Generator(Markov(cycle()), drafter=drafter, adapt=False)
    results = generator.generate([[1], [2, 3]], GREEDY)
    assert [r.tokens[:3] for r in results] == [[2, 3, 4], [4, 5, 6]]
    assert generator.stats.drafter_errors == 2
    assert generator.stats.accepted > 30


def test_a_draft_vocabulary_and_paged_models() -> None:
    """Ragged texts by real caches: what was accepted, drafted aside, and read as a prompt."""
    model, V = model_of("Llama"), VOCABULARY
    model.lm_head.weight.data.mul_(30)  # as sure as a trained one
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, V, n).tolist() for n in (1, 40, 17, 3)]
    greedy = fewstep.Sampling(temperature=0, max_tokens=24)
    plain = [r.tokens for r in fewstep.Generator(PagedModel(model)).generate(prompts, greedy)]
    for vocabulary in (None, np.arange(0, V, 2)):
        draft = PagedModel(model, vocabulary=vocabulary)
        drafter = fewstep.drafters.Cascade(draft, adapt=False, asks=3)
        generator = fewstep.Generator(PagedModel(model), drafter=drafter, adapt=False)
        results = generator.generate(prompts, greedy)
        assert [r.tokens for r in results] == plain
        assert generator.stats.drafter_errors == 0
        # The target's own guesses: those that it can make all come true.
        assert generator.stats.tokens_per_call > (3 if vocabulary is None else 1.2)
