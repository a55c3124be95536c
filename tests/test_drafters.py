# SPDX-License-Identifier: Apache-2.0
"""Drafters with a model, with heads and of one's own: the law of the texts stays the target's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep.drafters import Draft, DraftModel, Template
from fewstep.language_model import Markov
from frequencies import p_value

V = 4
DRAWN = ("chain", "k_seq", "rsd_c", "rsd_s")


def table(seed: int, size: int = V, order: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(size,) * (order + 1)).astype(np.float32)


TARGET = table(3)
GREEDY = fewstep.Sampling(temperature=0, max_tokens=25)


def texts(drafter: Any, count: int, tokens: int, temperature: float = 1.0) -> Any:
    """Return how often each text of some tokens follows token 1, and the generator."""
    each = [
        fewstep.Sampling(seed=i, max_tokens=tokens, temperature=temperature) for i in range(count)
    ]
    generator = fewstep.Generator(Markov(TARGET), drafter=drafter, max_batch=64)
    seen = np.zeros((V,) * tokens)
    for result in generator.generate([[1]] * count, each):
        assert result.finish == "length"
        seen[tuple(result.tokens)] += 1
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    return seen, generator


def law(tokens: int, temperature: float = 1.0) -> Any:
    """Return the probability of each text of some tokens after token 1."""
    p = np.exp(TARGET.astype(np.float64) / temperature)
    p /= p.sum(1, keepdims=True)
    joint = p[1]
    for _ in range(tokens - 1):
        joint = joint[..., None] * p
    return joint


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("mode", DRAWN)
def test_frequencies_with_drawn_drafts(mode: str, temperature: float) -> None:
    """Texts of 4 tokens, most of two calls: the second must not meet the first one's numbers."""
    drafter = DraftModel(Markov(table(8)), mode, depth=3, width=1 if mode == "chain" else 3)
    seen, generator = texts(drafter, 8000, 4, temperature)
    assert p_value(seen, 8000 * law(4, temperature)) > 1e-3
    assert 0.3 < generator.stats.accepted / generator.stats.tokens < 0.8


@pytest.mark.parametrize("mode", DRAWN)
def test_frequencies_with_filters(mode: str) -> None:
    """The drafter is filtered like the target, so that it drafts nothing that cannot come."""
    width = 1 if mode == "chain" else 3
    each = [fewstep.Sampling(seed=i, max_tokens=3, top_k=3, top_p=0.9) for i in range(6000)]
    drafter = DraftModel(Markov(TARGET), mode, depth=2, width=width)
    generator = fewstep.Generator(Markov(TARGET), drafter=drafter, max_batch=64)
    seen = np.zeros((V, V, V))
    for result in generator.generate([[1]] * len(each), each):
        seen[tuple(result.tokens)] += 1
    p = np.asarray(fewstep.logits.renorm(TARGET, top_k=3, top_p=0.9), np.float64)
    p /= p.sum(1, keepdims=True)
    expected = 6000 * p[1][:, None, None] * p[:, :, None] * p[None]
    assert not seen[expected == 0].any()
    assert p_value(seen, expected) > 1e-3
    assert generator.stats.tokens_per_call == 3  # the drafter is the target: all is accepted


def test_frequencies_with_a_draft_vocabulary() -> None:
    """The drafter knows tokens 0, 1 and 3 alone, which FR-Spec does to long vocabularies."""

    class Mapped(Markov):
        """Reads the target's tokens; those that it does not know are its token 0."""

        def forward(self, sequences: Any, tokens: Any, indptr: Any, **options: Any) -> Any:
            own = np.array([0, 1, 0, 2], np.int32)[tokens]
            return super().forward(sequences, own, indptr, **options)

    for mode in DRAWN:
        model = Mapped(table(8)[:3, :3])
        model.d2t = np.array([0, 1, 3], np.int32)
        seen, generator = texts(DraftModel(model, mode, depth=2), 6000, 3)
        assert p_value(seen, 6000 * law(3)) > 1e-3
        assert generator.stats.accepted > 1000


@pytest.mark.parametrize(
    ("mode", "temperature"), [("tree", 0.7), ("tree", 0.0), *((mode, 0.0) for mode in DRAWN)]
)
def test_drafts_that_draw_nothing_change_no_token(mode: str, temperature: float) -> None:
    target = Markov(table(3, 12, 2) * 2)
    each = [
        fewstep.Sampling(temperature=temperature, seed=i, max_tokens=12 + 5 * i) for i in range(5)
    ]
    prompts = [[1, 2], [3], [4, 5, 6, 7], [8], [9, 9]]
    plain = fewstep.Generator(target).generate(prompts, each)
    close = Markov(target.table + 0.3 * table(5, 12, 2))
    drafter = DraftModel(close, mode, depth=4)
    generator = fewstep.Generator(target, drafter=drafter, max_batch=3, adapt=False)
    results = generator.generate(prompts, each)
    assert [result.tokens for result in results] == [result.tokens for result in plain]
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    assert generator.stats.tokens_per_call > (1.9 if not temperature else 1.3)
    assert not close._texts  # all sequences of the draft model are freed


@pytest.mark.parametrize("mode", ["tree", *DRAWN])
def test_the_same_tokens_alone_and_in_a_batch(mode: str) -> None:
    target, small = Markov(table(3, 9, 2)), Markov(table(4, 9, 2))
    each = [fewstep.Sampling(seed=i, max_tokens=10 + i) for i in range(6)]
    prompts = [[i, 2] for i in range(6)]

    def make(batch: int) -> fewstep.Generator:
        drafter = DraftModel(small, mode, depth=3)
        return fewstep.Generator(target, drafter=drafter, max_batch=batch)

    together = make(4).generate(prompts, each)
    alone = [make(1).generate([p], s)[0] for p, s in zip(prompts, each, strict=True)]
    assert [result.tokens for result in together] == [result.tokens for result in alone]


class Counting(Markov):
    """Counts the rows that were run."""

    rows = 0

    def forward(self, sequences: Any, tokens: Any, indptr: Any, **options: Any) -> Any:
        self.rows += len(tokens)
        return super().forward(sequences, tokens, indptr, **options)


def test_accepted_rows_are_not_run_again_by_the_draft_model() -> None:
    small = Counting(TARGET)
    drafter = DraftModel(small, "chain", depth=3, adapt=False)
    generator = fewstep.Generator(Markov(TARGET), drafter=drafter, adapt=False)
    (result,) = generator.generate([[1, 2, 3]], fewstep.Sampling(temperature=0, max_tokens=24))
    assert result.calls == 6
    # The prompt once; then of each 4 tokens the root and two of three drafts, and the third one,
    # which had been drafted but not run, when it has been accepted.
    assert small.rows == 2 + 3 + 5 * 4


def test_a_draft_model_without_room_costs_drafts_alone() -> None:
    target = Markov(table(3, 9, 2))
    plain = fewstep.Generator(target).generate([[1], [2], [3]], GREEDY)
    drafter = DraftModel(Markov(target.table, room=30), "tree", depth=3)
    generator = fewstep.Generator(target, drafter=drafter)
    results = generator.generate([[1], [2], [3]], GREEDY)
    assert [result.tokens for result in results] == [result.tokens for result in plain]
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    assert generator.stats.accepted > 0


def test_a_draft_model_of_nan_costs_drafts_alone() -> None:
    target = Markov(table(3, 9, 2))
    plain = fewstep.Generator(target).generate([[1]], GREEDY)
    for mode in ("tree", "chain"):
        drafter = DraftModel(Markov(target.table * np.nan), mode)
        (result,) = fewstep.Generator(target, drafter=drafter).generate([[1]], GREEDY)
        assert result.tokens == plain[0].tokens


def test_levels_end_where_they_do_not_pay() -> None:
    """A draft model that is as slow as the target and always wrong is soon asked for one level."""

    class Slow(Counting):
        def forward(self, sequences: Any, tokens: Any, indptr: Any, **options: Any) -> Any:
            import time

            time.sleep(0.002)
            return super().forward(sequences, tokens, indptr, **options)

    small = Slow(np.zeros((V, V), np.float32))
    generator = fewstep.Generator(Markov(TARGET), drafter=DraftModel(small, "tree", depth=8))
    (result,) = generator.generate([[1]], fewstep.Sampling(temperature=0, max_tokens=30))
    assert (
        result.tokens
        == fewstep.Generator(Markov(TARGET))
        .generate([[1]], fewstep.Sampling(temperature=0, max_tokens=30))[0]
        .tokens
    )
    assert small.rows < 30 * 10


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_heads_fill_a_template(temperature: float) -> None:
    target = Markov(table(3, 9))
    best = target.table.argsort(1)[:, ::-1].astype(np.int32)

    def heads(state: Any) -> Any:
        following = best[state[:, 0], 0]  # the root, if it was the best token
        return np.stack([best[following, :2], best[best[following, 0], :2]], 1)

    template = fewstep.tree.template([(0,), (1,), (0, 0), (0, 1)])
    generator = fewstep.Generator(target, drafter=Template(heads, template), adapt=False)
    each = [fewstep.Sampling(temperature=temperature, seed=i, max_tokens=20) for i in range(3)]
    plain = fewstep.Generator(target).generate([[1], [2], [3]], each)
    results = generator.generate([[1], [2], [3]], each)
    assert [result.tokens for result in results] == [result.tokens for result in plain]
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    assert generator.stats.tokens_per_call > (2.2 if not temperature else 1.2)


def test_errors() -> None:
    for wrong, text in (
        ({"mode": "beam"}, "'mode' must be one of tree, chain, k_seq, rsd_c, rsd_s"),
        ({"depth": 0}, "'depth' must be from 1 to 64, got 0"),
        ({"width": 65}, "'width' must be from 1 to 64, got 65"),
        ({"nodes": 300}, "'nodes' must be from 1 to 255, got 300"),
        ({"mode": "chain", "width": 2}, "'width' must be 1 with mode chain, got 2"),
    ):
        with pytest.raises(ValueError, match=f"fewstep.drafters.DraftModel: {text}"):
            DraftModel(Markov(TARGET), **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'model' must be a LanguageModel or a model of tran"):
        DraftModel(7)
    with pytest.raises(ValueError, match="Template: 'rule' must be match or typical, got 'rrs'"):
        Template(lambda state: state, fewstep.tree.template([(0,)]), rule="rrs")


def test_independent_chains_go_on_together_where_they_have_met() -> None:
    """Of 3 chains of SpecTr there are 3 draws at every level, however few nodes they share."""
    from fewstep._generate.request import Request

    drafter = DraftModel(Markov(table(8) * 2), "k_seq", depth=4, width=3)
    requests = [
        Request(i, [1, 2], 2, fewstep.Sampling(seed=i), None, frozenset()) for i in range(40)
    ]
    met = 0
    for draft in drafter.draft(requests, [4] * 40):
        assert draft is not None
        assert draft.draw_indptr is not None
        draws = np.diff(draft.draw_indptr)
        depth = np.asarray(fewstep.tree.build(draft.parent).depth)
        assert [int(draws[depth == level].sum()) for level in range(4)] == [3] * 4
        met += len(draft.token) < 13
    assert met > 10


def test_what_is_left_of_a_draft() -> None:
    """A node goes with its parent; the others keep their numbers."""
    whole = Draft(
        np.array([9, 1, 2, 3, 4], np.int32),
        np.array([-1, 0, 0, 1, 2], np.int32),
        rule="typical",
        score=np.array([1, 0.5, 0.4, 0.3, 0.2], np.float32),
    )
    assert whole.subset([True] * 5) is whole
    left = whole.subset([False, False, True, True, True])  # the root stays
    assert left.index is not None
    assert left.score is not None
    assert left.token.tolist() == [9, 2, 4]
    assert left.parent.tolist() == [-1, 0, 1]
    assert left.index.tolist() == [0, 2, 4]
    assert left.score.tolist() == whole.score[[0, 2, 4]].tolist()
    assert left.rule == "typical"
    again = left.subset([True, True, False])
    assert again.token.tolist() == [9, 2]
    assert again.index is not None
    assert again.index.tolist() == [0, 2]
    first = whole.head(3)
    assert (first.token.tolist(), first.parent.tolist()) == ([9, 1, 2], [-1, 0, 0])
    assert first.index is None
    assert whole.subset([True, True, True, False, False]).token.tolist() == [9, 1, 2]


def test_recycling_reads_prompts() -> None:
    """Also that of the first call, before there is a table; what a model says replaces a row."""
    model = Markov(np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1))  # after t comes t + 1
    template = fewstep.tree.template([(0,), (1,), (0, 0)])
    drafter = fewstep.drafters.TokenRecycling(template, successors=3)
    generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    once = fewstep.Sampling(temperature=0, max_tokens=1)

    def drafted(token: int) -> list[int]:
        request = generator.submit([token])
        generator.cancel(request)
        (draft,) = drafter.draft([request], [8])
        assert draft is not None
        tokens: list[int] = draft.token.tolist()
        return tokens

    generator.generate([[2, 4, 2, 5, 2, 5, 4, 2, 6, 7]], once)
    assert drafted(2) == [2, 6, 5, 7]
    generator.generate([[6, 4, 6, 5]], once)
    assert drafted(6) == [6, 5, 4, 6]
