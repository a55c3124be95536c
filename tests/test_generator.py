# SPDX-License-Identifier: Apache-2.0
"""`fewstep.Generator`: drafts change how fast texts come, never which ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep.drafters import Draft, PromptLookup, Seen, TokenRecycling, TriGram
from fewstep.language_model import Markov
from frequencies import p_value

V = 11
GREEDY = fewstep.Sampling(temperature=0, max_tokens=30)


def model(order: int = 2, sharpness: float = 2.0, **options: Any) -> Markov:
    """Return a random model of `order` tokens."""
    table = np.random.default_rng(5).normal(size=(V,) * (order + 1)) * sharpness
    return Markov(table, **options)


def plain(prompt: Sequence[int], sampling: fewstep.Sampling) -> list[int]:
    """Sample one token after the other, by the table alone."""
    table, tokens = model().table, [0, 0, *prompt]
    for _ in range(sampling.max_tokens):
        row = table[tokens[-2], tokens[-1]][None]
        drawn = fewstep.logits.sample(
            row, [sampling.seed], [len(tokens) - 2], temperature=sampling.temperature,
            top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p,
        )  # fmt: skip
        tokens.append(int(drawn[0]))
    return tokens[2 + len(prompt) :]


class Oracle:
    """Drafts what the model will say at temperature 0, and a sibling that it will not say."""

    def __init__(self, source: Markov, depth: int) -> None:
        self._source, self._depth = source, depth

    def start(self, request: Any) -> None: ...

    def stop(self, request: Any) -> None: ...

    def observe(self, seen: Seen) -> None: ...

    def draft(self, requests: Any, limits: Any) -> list[Draft]:
        drafts = []
        for request in requests:
            state = [0, 0, *request.tokens][-2:]
            token, parent, at = [request.tokens[-1]], [-1], 0
            for _ in range(self._depth):
                best = int(self._source.table[tuple(state)].argmax())
                token += [(best + 1) % V, best]
                parent += [at, at]
                at, state = len(token) - 1, [state[1], best]
            drafts.append(Draft(np.array(token, np.int32), np.array(parent, np.int32)))
        return drafts


def drafters() -> dict[str, Any]:
    corpus = np.random.default_rng(1).integers(0, V, 300)
    return {
        "none": None,
        "lookup": PromptLookup(n_min=1, branches=3),
        "lookup_corpus": PromptLookup(corpus=corpus),
        "recycling": TokenRecycling(),
        "contexts": fewstep.drafters.ContextRecycling(order=3, max_nodes=12),
        "trigram": TriGram(corpus=corpus),
        "cascade": fewstep.drafters.Cascade(model(), max_nodes=12),
        "oracle": Oracle(model(), 4),
    }


PROMPTS = [[1, 2, 3, 1, 2], [4], [7, 7, 7, 7, 7, 7, 2], [9, 1]]


@pytest.mark.parametrize("adapt", [False, True])
@pytest.mark.parametrize("name", drafters())
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_change_no_token(name: str, temperature: float, adapt: bool) -> None:
    each = [
        fewstep.Sampling(temperature=temperature, top_k=7, seed=40 + i, max_tokens=20 + 3 * i)
        for i in range(len(PROMPTS))
    ]
    generator = fewstep.Generator(model(), drafter=drafters()[name], max_batch=3, adapt=adapt)
    results = generator.generate(PROMPTS, each)
    for prompt, sampling, result in zip(PROMPTS, each, results, strict=True):
        assert result.tokens == plain(prompt, sampling)
        assert (result.finish, result.error) == ("length", None)
        assert len(result.drafted) == len(result.tokens)
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    assert generator.stats.tokens == sum(len(result.tokens) for result in results)
    assert sum(result.calls for result in results) == generator.stats.calls


def test_accepted_drafts_save_calls() -> None:
    generator = fewstep.Generator(model(), drafter=Oracle(model(), 4), adapt=False)
    (result,) = generator.generate([[3]], GREEDY)
    assert result.tokens == plain([3], GREEDY)
    assert result.calls == 6  # 5 tokens each
    assert result.drafted == [True, True, True, True, False] * 6
    assert generator.stats.tokens_per_call == 5
    assert generator.stats.acceptance_by_depth == [1, 1, 1, 1]
    assert generator.stats.accepted == 24
    assert generator.stats.nodes == 48


def test_a_budget_leaves_out_what_is_never_accepted() -> None:
    """The second sibling is never right; with calls that cost by the row it is soon left out."""

    class Slow(Markov):
        def forward(self, sequences: Any, tokens: Any, indptr: Any, **options: Any) -> Any:
            import time

            time.sleep(0.002 * len(tokens))
            return super().forward(sequences, tokens, indptr, **options)

    generator = fewstep.Generator(Slow(model().table), drafter=Oracle(model(), 2))
    one = fewstep.Sampling(temperature=0, max_tokens=90)
    (result,) = generator.generate([[3, 4]], one)
    assert result.tokens == plain([3, 4], one)
    assert generator.stats.nodes < 3.5 * generator.stats.calls


@pytest.mark.parametrize("name", ["recycling", "oracle"])
def test_requests_join_and_leave(name: str) -> None:
    generator = fewstep.Generator(model(), drafter=drafters()[name], max_batch=2)
    samplings = [fewstep.Sampling(seed=i, max_tokens=5 + 4 * i) for i in range(6)]
    requests = []
    for i, sampling in enumerate(samplings):
        requests.append(generator.submit([i, 2], sampling))
        generator.step()
    while generator.step():
        pass
    for i, (request, sampling) in enumerate(zip(requests, samplings, strict=True)):
        assert generator.result(request).tokens == plain([i, 2], sampling)
    assert generator.step() == 0


def test_a_stop_token_in_the_middle_of_a_draft_ends_the_request() -> None:
    whole = plain([3], GREEDY)
    stop = whole[6]
    first = whole.index(stop)
    sampling = fewstep.Sampling(temperature=0, max_tokens=30, stop_tokens=[stop])
    for drafter in (None, Oracle(model(), 4)):
        (result,) = fewstep.Generator(model(), drafter=drafter).generate([[3]], sampling)
        assert (result.tokens, result.finish) == (whole[: first + 1], "stop")


def test_what_is_published_is_what_the_model_has() -> None:
    """A stop in the middle of an accepted path leaves nothing of the model's behind it."""
    published = []

    class Shared(Markov):
        def publish(self, sequence: int, tokens: Any) -> None:
            assert list(tokens) == self._texts[sequence]
            published.append(list(tokens))

    whole = plain([3], GREEDY)
    sampling = fewstep.Sampling(temperature=0, max_tokens=30, stop_tokens=[whole[6]])
    generator = fewstep.Generator(Shared(model().table), drafter=Oracle(model(), 4), adapt=False)
    (result,) = generator.generate([[3]], sampling)
    assert result.tokens == whole[:7]  # the second of the second call's four accepted drafts
    assert published == [[3, *whole[:6]]]


class Letters:
    """A tokenizer of one letter each."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


@pytest.mark.parametrize("drafted", [False, True])
def test_a_stop_string_across_accepted_drafts(drafted: bool) -> None:
    drafter = Oracle(model(), 4) if drafted else None
    text = Letters().decode(plain([3], GREEDY))
    stop = text[7:10]
    end = text.index(stop)
    generator = fewstep.Generator(model(), Letters(), drafter)
    sampling = fewstep.Sampling(temperature=0, max_tokens=30, stop=["zzz", stop])
    (result,) = generator.generate(["d"], sampling)
    assert (result.text, result.finish) == (text[:end], "stop")
    assert Letters().decode(result.tokens) == text[: end + 3]
    assert "".join(piece.text for piece in generator.stream("d", sampling)) == text[:end]


def test_a_stream_holds_back_what_may_become_a_stop_string() -> None:
    generator = fewstep.Generator(model(), Letters())
    text = Letters().decode(plain([3], GREEDY))
    never = text[1] + text[2] + "z"  # its beginning comes, its end does not
    later = text[-2:] + "z"
    sampling = fewstep.Sampling(temperature=0, max_tokens=30, stop=[never, later])
    pieces = list(generator.stream("d", sampling))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.text for piece in pieces[:4]] == [text[0], "", "", text[1:4]]
    assert [token for piece in pieces for token in piece.tokens] == plain([3], GREEDY)


def test_penalties_see_the_drafted_tokens() -> None:
    sampling = fewstep.Sampling(
        temperature=0, repetition=1.3, presence=0.4, frequency=0.2, bias={2: -1.5}, max_tokens=25
    )
    table, tokens = model().table, [0, 0, 3, 4]
    for _ in range(25):
        made = tokens[4:]
        history = [3, 4, *made]
        row = fewstep.logits.penalise(
            table[tokens[-2], tokens[-1]][None],
            np.array(history, np.int32), np.array([0, len(history)], np.int32),
            counts=np.array([0, 0, *[1] * len(made)], np.int32), repetition=1.3, presence=0.4,
            frequency=0.2, bias_ids=np.array([2], np.int32),
            bias_values=np.array([-1.5], np.float32),
        )  # fmt: skip
        tokens.append(int(row[0].argmax()))
    for drafter in (None, TokenRecycling(), Oracle(model(), 3)):
        generator = fewstep.Generator(model(), drafter=drafter)
        found, other = generator.generate([[3, 4], [3]], [sampling, GREEDY])
        assert found.tokens == tokens[4:]
        assert other.tokens == plain([3], GREEDY)


def even_then_odd(tokens: Sequence[int]) -> Any:
    """Allow even tokens at even places, odd ones at odd places; refuse to be asked of others."""
    assert all(token % 2 == place % 2 for place, token in enumerate(tokens))
    allowed = [token for token in range(V) if token % 2 == len(tokens) % 2]
    return np.array([sum(1 << token for token in allowed)], np.uint32)


@pytest.mark.parametrize("name", ["none", "recycling", "oracle"])
def test_a_grammar_masks_every_node(name: str) -> None:
    sampling = fewstep.Sampling(seed=9, max_tokens=40, bitmask=even_then_odd)
    generator = fewstep.Generator(model(), drafter=drafters()[name])
    found, other = generator.generate([[3], [3]], [sampling, fewstep.Sampling(seed=2)])
    assert [token % 2 for token in found.tokens] == [0, 1] * 20
    assert other.tokens == plain([3], fewstep.Sampling(seed=2))


def test_a_grammar_that_fails_ends_its_request_alone() -> None:
    def broken(tokens: Sequence[int]) -> Any:
        if len(tokens) == 3:
            raise RuntimeError("no state")
        return np.array([2**V - 1], np.uint32)

    def short(tokens: Sequence[int]) -> Any:
        return np.zeros(2, np.uint32)

    def nothing(tokens: Sequence[int]) -> Any:
        return np.zeros(1, np.uint32)

    masks = (broken, short, nothing, None)
    each = [fewstep.Sampling(temperature=0, max_tokens=30, bitmask=mask) for mask in masks]
    results = fewstep.Generator(model()).generate([[3]] * 4, each)
    assert [result.finish for result in results] == ["error"] * 3 + ["length"]
    assert [str(result.error) for result in results[:3]] == [
        "no state",
        "fewstep.Sampling: 'bitmask' must give 1 int32 or uint32 words, got uint32 of shape [2]",
        "fewstep.Generator: the logits at position 1 or in its draft allow no token",
    ]
    assert results[3].tokens == plain([3], GREEDY)


class Broken:
    """A drafter that fails in the ways of a list, one after the other."""

    def __init__(self, ways: Sequence[Any]) -> None:
        self._ways, self._calls = ways, 0

    def start(self, request: Any) -> None:
        raise OSError("not ready")

    def stop(self, request: Any) -> None:
        raise OSError("not ready")

    def observe(self, seen: Seen) -> None:
        raise KeyError("table")

    def draft(self, requests: Any, limits: Any) -> Any:
        self._calls += 1
        way = self._ways[self._calls % len(self._ways)]
        return way([request.tokens[-1] for request in requests])


def tree(token: Any, parent: Any, **options: Any) -> Draft:
    return Draft(np.array(token), np.array(parent), **options)


Q = np.full((3, V), 1 / V, np.float32)
ODD = np.array([np.nan, np.inf, -1], np.float32)
NONSENSE = {
    "raises": lambda last: 1 / 0,
    "nothing": lambda last: None,
    "too few": lambda last: [],
    "no drafts": lambda last: [7] * len(last),
    "no root": lambda last: [tree([], []) for _ in last],
    "other root": lambda last: [tree([(t + 1) % V, 3], [-1, 0]) for t in last],
    "shapes": lambda last: [tree([t, 3], [-1]) for t in last],
    "cycle": lambda last: [tree([t, 3, 4], [-1, 2, 1]) for t in last],
    "two roots": lambda last: [tree([t, 3], [-1, -1]) for t in last],
    "tokens": lambda last: [tree([t, V, -7, 3], [-1, 0, 1, 0]) for t in last],
    "large": lambda last: [tree([t] + [3] * 999, range(-1, 999)) for t in last],
    "text": lambda last: [tree(["a", "b"], [-1, 0]) for _ in last],
    "law": lambda last: [tree([t, 3], [-1, 0], law="hearsay") for t in last],
    "no q": lambda last: [tree([t, 3], [-1, 0], law="iid") for t in last],
    "rule": lambda last: [tree([t, 3], [-1, 0], rule="chain") for t in last],
    "other rule": lambda last: [tree([t, 3], [-1, 0], rule="k_seq") for t in last],
    "no rule": lambda last: [tree([t, 3], [-1, 0], rule="hope") for t in last],
    "drawn tokens": lambda last: [tree([t, V], [-1, 0], law="iid", q=Q) for t in last],
    "narrow q": lambda last: [tree([t, 3], [-1, 0], law="iid", q=Q[:, :4]) for t in last],
    "q rows": lambda last: [
        tree([t, 3], [-1, 0], law="iid", q=Q, q_row=np.array([9, 9], np.int32)) for t in last
    ],
    "q of NaN": lambda last: [tree([t, 3], [-1, 0], law="iid", q=Q * np.nan) for t in last],
    "infinite": lambda last: [tree([t, 3, 4], [-1, 0, 0], score=ODD) for t in last],
    "NaN": lambda last: [tree([t, 3], [-1, 0], score=np.full(2, np.nan)) for t in last],
    "few scores": lambda last: [tree([t, 3], [-1, 0], score=np.ones(1)) for t in last],
    "words": lambda last: [tree([t, 3], [-1, 0], score=np.array(["a", "b"])) for t in last],
    "numbers": lambda last: [tree([t, 3], [-1, 0], index=np.arange(3)) for t in last],
    "negative q": lambda last: [tree([t, 3], [-1, 0], law="iid", q=-Q) for t in last],
}


@pytest.mark.parametrize("way", NONSENSE)
def test_nonsense_costs_no_token(way: str) -> None:
    generator = fewstep.Generator(model(), drafter=Broken([NONSENSE[way]]))
    results = generator.generate([[3], [4, 5]], GREEDY)
    assert [result.tokens for result in results] == [plain([3], GREEDY), plain([4, 5], GREEDY)]
    assert generator.stats.drafter_errors > 0
    assert isinstance(generator.stats.last_error, (OSError, KeyError))


def test_no_room_is_an_error_of_one_request_and_others_go_on() -> None:
    generator = fewstep.Generator(model(room=24), drafter=Oracle(model(), 4), max_batch=3)
    each = [fewstep.Sampling(temperature=0, max_tokens=n) for n in (30, 4, 6)]
    long, *others = generator.generate([[3], [4], [5] * 5], each)
    assert long.finish == "error"
    assert str(long.error).startswith("fewstep.language_model.Markov: 1 tokens more do not fit")
    assert long.tokens == plain([3], GREEDY)[: len(long.tokens)]
    for result, prompt, sampling in zip(others, ([4], [5] * 5), each[1:], strict=True):
        assert result.tokens == plain(prompt, sampling)
    assert len(generator.model._reserved) == 0  # type: ignore[attr-defined]


def test_requests_wait_for_room() -> None:
    generator = fewstep.Generator(model(room=16))
    sampling = fewstep.Sampling(temperature=0, max_tokens=6)
    results = generator.generate([[1] * 8, [2] * 8, [3] * 8], sampling)
    assert [r.tokens for r in results] == [plain([i] * 8, sampling) for i in (1, 2, 3)]
    with pytest.raises(MemoryError, match="19 tokens more do not fit, 0 of 16 are taken"):
        list(generator.stream([1] * 20, sampling))


def test_a_stream_that_is_left_frees_its_memory() -> None:
    generator = fewstep.Generator(model(room=40), drafter=Oracle(model(), 4))
    stream = generator.stream([3], GREEDY)
    next(stream)
    assert len(generator.model._reserved) == 1  # type: ignore[attr-defined]
    stream.close()
    assert len(generator.model._reserved) == 0  # type: ignore[attr-defined]
    waiting = generator.submit([3], GREEDY)
    generator.cancel(waiting)
    assert generator.step() == 0
    assert generator.result(waiting).finish == "cancelled"


def test_logits_that_are_nan_end_their_request_alone() -> None:
    bad = model()
    bad.table[:, 6] = np.nan
    results = fewstep.Generator(bad, drafter=TokenRecycling()).generate([[6], [3]], GREEDY)
    assert results[0].finish == "error"
    assert str(results[0].error) == (
        "fewstep.Generator: the logits at position 1 or in its draft hold NaN"
    )
    assert results[1].tokens[:2] == plain([3], GREEDY)[:2]


def test_frequencies_are_those_of_the_model() -> None:
    """Texts of three tokens of a small vocabulary: chi-square against their probabilities."""
    table = np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32)
    law = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    exact = law[1][:, None, None] * law[:, :, None] * law[None]
    count = 6000
    each = [fewstep.Sampling(seed=i, max_tokens=3) for i in range(count)]
    template = fewstep.tree.template([(0,), (1,), (0, 0), (0, 1)])
    drafter = TokenRecycling(template, successors=3)
    generator = fewstep.Generator(Markov(table), drafter=drafter, max_batch=64, adapt=False)
    seen = np.zeros((3, 3, 3))
    for result in generator.generate([[1]] * count, each):
        seen[tuple(result.tokens)] += 1
    assert p_value(seen, count * exact) > 1e-3
    assert generator.stats.accepted > count / 2
