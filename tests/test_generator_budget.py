# SPDX-License-Identifier: Apache-2.0
"""How many drafted nodes are verified: what pays by the clock, on quiet machines and busy ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep._generate import engine, stats
from fewstep._generate.budget import Budget, CallCost
from fewstep._generate.request import Request
from fewstep._generate.worth import Worth
from fewstep.drafters import Draft
from fewstep.language_model import Markov


def chain(nodes: int) -> Draft:
    return Draft(np.arange(nodes, dtype=np.int32), np.arange(-1, nodes - 1, dtype=np.int32))


def run(budget: Budget, calls: int, fixed: float, row: float, hit: float, busy: float) -> float:
    """Draft chains of 12, each token accepted with a chance; return the nodes of late calls."""
    rng = np.random.default_rng(4)
    sizes = []
    for _ in range(calls):
        (draft,) = budget.cut([chain(13)])
        nodes = len(draft.token)
        sizes.append(nodes - 1)
        accepted = 0
        while accepted < nodes - 1 and rng.random() < hit:
            accepted += 1
        seconds = (fixed + row * nodes) * (20 if rng.random() < busy else 1 + rng.random() / 10)
        budget.cost.add(nodes, seconds)
        budget.learn([draft], [range(1, accepted + 1)])
    return float(np.mean(sizes[-100:]))


@pytest.mark.parametrize("busy", [0.0, 0.15])
def test_drafts_are_as_long_as_pays(busy: float) -> None:
    # Rows for nothing: all. Rows as dear as calls: a token of 0.8 for a row of 1/2 does not pay.
    assert run(Budget(), 300, 1.0, 0.001, 0.9, busy) > 9
    assert run(Budget(), 300, 0.01, 1.0, 0.8, busy) < 2
    # Ten rows cost a call; the k-th has the chance 0.8^k: the rate is best with 5.
    ends = [(1 - 0.8 ** (k + 1)) / 0.2 / (1 + 0.1 * (k + 1)) for k in range(12)]
    best = int(np.argmax(ends))
    assert abs(run(Budget(), 600, 1.0, 0.1, 0.8, busy) - best) < 2.5


def test_drafts_come_back_when_they_pay_again() -> None:
    budget = Budget()
    assert run(budget, 300, 1.0, 0.1, 0.02, 0.0) < 2
    assert run(budget, 1500, 1.0, 0.1, 0.95, 0.0) > 8
    assert run(budget, 900, 0.05, 1.0, 0.5, 0.0) < 1.5


def test_trying_drafts_that_do_not_pay_costs_little() -> None:
    # 16 trees of 80 nodes, where a row costs as much as it would bring: whole ones take 40 calls.
    budget, fixed, row = Budget(), 16.0, 1.0
    seconds = []
    for _ in range(600):
        drafts = budget.cut([chain(80)] * 16)
        nodes = sum(len(draft.token) for draft in drafts)
        seconds.append(fixed + row * nodes)
        budget.cost.add(nodes, seconds[-1])
        budget.learn(drafts, [range(0)] * 16)
    assert np.mean(seconds[100:]) < 1.15 * (fixed + row * 16)


def test_a_few_calls_of_others_do_not_move_the_cost() -> None:
    cost, rng = CallCost(), np.random.default_rng(4)
    assert cost.line() is None
    for i in range(400):
        rows = int(rng.integers(1, 20))
        cost.add(rows, (2 + 0.5 * rows) * (50 if i % 4 == 0 else 1))
    line = cost.line()
    assert line is not None
    assert line == pytest.approx((2, 0.5), rel=0.1)


def drafted_calls(
    seconds: list[tuple[float, float]], temperature: float = 0.0, law: str = "deterministic"
) -> list[bool]:
    """Run calls of one request, a token of which takes the first plain and the second drafted."""
    worth, asked = Worth(), []
    sampling = fewstep.Sampling(temperature=temperature)
    request = Request(0, [1], 1, sampling, None, frozenset())
    draft = Draft(np.array([1, 2], np.int32), np.array([-1, 0], np.int32), law=law)
    for plain, drafted in seconds:
        asked.append(worth.drafts([request]))
        block = SimpleNamespace(requests=[request], drafts=[draft])
        tokens = 2 if asked[-1] else 1
        worth.learn(block, asked[-1], tokens, tokens * (drafted if asked[-1] else plain))
    return asked


@pytest.mark.parametrize(
    ("temperature", "law"),
    [(0.0, "deterministic"), (1.0, "deterministic"), (0.0, "iid")],  # greedy: the same text
)
def test_nothing_is_drafted_where_plain_calls_are_faster(temperature: float, law: str) -> None:
    assert np.mean(drafted_calls([(1.0, 0.7)] * 600, temperature, law)[100:]) > 0.95
    asked = drafted_calls([(1.0, 1.5)] * 2000, temperature, law)
    assert np.mean(asked[100:600]) < 0.02  # after pauses of 16, 32, ...
    assert 4 <= sum(asked[600:]) <= 7  # and of 256 calls in the end


def test_drafts_that_begin_to_pay_are_found() -> None:
    asked = drafted_calls([(1.0, 1.5)] * 1500 + [(1.0, 0.6)] * 600)
    assert np.mean(asked[-300:]) > 0.95


def test_no_text_of_drawn_drafts_depends_on_what_calls_cost() -> None:
    assert all(drafted_calls([(1.0, 1.5)] * 600, 1.0, "iid"))


class Clock:
    """Tells the time that it was given."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(Markov):
    """A model of which a call takes 10 seconds and a tenth of one a row."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1))  # t, t + 1, ...
        self.clock = clock

    def forward(self, sequences: Any, tokens: Any, indptr: Any, **options: Any) -> Any:
        self.clock.now += 10.0 + 0.1 * len(tokens)
        return super().forward(sequences, tokens, indptr, **options)


class Half:
    """Drafts chains of 8, of which each token is right with a chance of a half; in 5 seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.rng = clock, np.random.default_rng(4)

    def start(self, request: Request) -> None: ...
    def stop(self, request: Request) -> None: ...
    def observe(self, seen: Any) -> None: ...

    def draft(self, requests: Any, limits: Any) -> list[Draft]:
        self.clock.now += 5.0
        (request,) = requests
        wrong = np.cumsum(self.rng.random(8) < 0.5)
        tokens = (request.tokens[-1] + np.arange(9) + np.r_[0, wrong > 0]) % 8
        score = 0.5 ** np.arange(9, dtype=np.float32)
        return [Draft(tokens.astype(np.int32), np.arange(-1, 8, dtype=np.int32), score=score)]


def test_what_drafting_costs_is_no_cost_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The k-th node brings 0.5^k: worth a tenth of a second down to the sixth.

    Were drafting a part of what rows cost, they would seem to cost seven times as much.
    """
    clock = Clock()
    for module in (engine, stats):
        monkeypatch.setattr(module, "perf_counter", clock)
    generator = fewstep.Generator(Slow(clock), drafter=Half(clock))
    generator.generate([[1]], fewstep.Sampling(temperature=0, max_tokens=200))
    generator.reset_stats()
    generator.generate([[1]], fewstep.Sampling(temperature=0, max_tokens=400))
    assert 5 < generator.stats.nodes / generator.stats.drafted_by_depth[0] < 7
