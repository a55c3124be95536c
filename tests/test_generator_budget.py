# SPDX-License-Identifier: Apache-2.0
"""How many drafted nodes are verified: what pays by the clock, on quiet machines and busy ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep._core import CallCost
from fewstep._generate import engine, stats
from fewstep._generate.budget import Budget
from fewstep._generate.request import Request
from fewstep._generate.worth import Worth
from fewstep.drafters import Draft
from fewstep.language_model import Markov


def chain(nodes: int) -> Draft:
    return Draft(np.arange(nodes, dtype=np.int32), np.arange(-1, nodes - 1, dtype=np.int32))


def run(
    budget: Budget, calls: int, fixed: float, row: float, hit: float, busy: float,
    scored: bool = False,
) -> float:  # fmt: skip
    """Draft chains of 12, each token accepted with a chance; return the nodes of late calls."""
    rng = np.random.default_rng(4)
    request = Request(0, [1], 1, fewstep.Sampling(temperature=0), None, frozenset())
    sizes = []
    for _ in range(calls):
        if not budget.worth.drafts([request]):
            sizes.append(0)
            budget.cost.add(1, fixed + row)
            continue
        draft = chain(13)
        if scored:  # drafters think too well of themselves
            draft.score = np.float32(1 - (1 - hit) / 2) ** np.arange(13, dtype=np.float32)
        (draft,) = budget.cut([draft])
        nodes = len(draft.token)
        sizes.append(nodes - 1)
        accepted = 0
        while accepted < nodes - 1 and rng.random() < hit:
            accepted += 1
        seconds = (fixed + row * nodes) * (20 if rng.random() < busy else 1 + rng.random() / 10)
        budget.cost.add(nodes, seconds)
        budget.learn([draft], [range(1, accepted + 1)], seconds)
    return float(np.mean(sizes[-100:]))


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("busy", [0.0, 0.15])
def test_drafts_are_as_long_as_pays(busy: float, scored: bool) -> None:
    # Rows for nothing: all. Rows as dear as calls: a token of 0.8 for a row of 1/2 does not pay.
    assert run(Budget(), 300, 1.0, 0.001, 0.9, busy, scored) > 9
    assert run(Budget(), 300, 0.01, 1.0, 0.8, busy, scored) < 2
    # Ten rows cost a call; the k-th has the chance 0.8^k: the rate is best with 5.
    ends = [(1 - 0.8 ** (k + 1)) / 0.2 / (1 + 0.1 * (k + 1)) for k in range(12)]
    best = int(np.argmax(ends))
    assert abs(run(Budget(), 600, 1.0, 0.1, 0.8, busy, scored) - best) < 2.5


@pytest.mark.parametrize("scored", [False, True])
def test_drafts_come_back_when_they_pay_again(scored: bool) -> None:
    budget = Budget()
    assert run(budget, 900, 1.0, 0.1, 0.02, 0.0, scored) < 2
    assert run(budget, 900, 1.0, 0.1, 0.95, 0.0, scored) > 8
    assert run(budget, 900, 0.05, 1.0, 0.5, 0.0, scored) < 1.5


def test_rows_that_cost_nothing_up_to_some_are_used() -> None:
    """Four rows take as long as one, more as long as that many calls; a straight line misses it."""
    budget, rng = Budget(), np.random.default_rng(4)
    sizes = []
    for _ in range(400):
        (draft,) = budget.cut([chain(13)])
        nodes = len(draft.token)
        sizes.append(nodes)
        accepted = int(np.argmin([*(rng.random(nodes - 1) < 0.4), False]))
        budget.cost.add(nodes, max(1.0, nodes - 3.0))
        budget.learn([draft], [range(1, accepted + 1)], max(1.0, nodes - 3.0))
    assert np.median(sizes[-100:]) == 4


def test_trying_drafts_that_do_not_pay_costs_little() -> None:
    # 16 trees of 80 nodes, where a row costs as much as it would bring: whole ones take 40 calls.
    budget, fixed, row = Budget(), 16.0, 1.0
    requests = [Request(i, [1], 1, fewstep.Sampling(), None, frozenset()) for i in range(16)]
    for request in requests:
        request.chosen = True
    seconds = []
    for _ in range(600):
        asked = budget.worth.drafts(requests)
        drafts = budget.cut([chain(80)] * 16) if asked else [chain(1)] * 16
        nodes = sum(len(draft.token) for draft in drafts)
        seconds.append(fixed + row * nodes)
        budget.cost.add(nodes, seconds[-1])
        if asked:
            budget.learn(drafts, [range(0)] * 16, seconds[-1])
    assert max(seconds) <= fixed + row * 16 * 4
    assert np.mean(seconds[100:]) < 1.15 * (fixed + row * 16)


def test_a_few_calls_of_others_do_not_move_the_cost() -> None:
    cost, rng = CallCost(), np.random.default_rng(4)
    assert cost.curve(4) is None
    for i in range(400):
        rows = int(rng.integers(1, 20))
        cost.add(rows, (2 + 0.5 * rows) * (50 if i % 4 == 0 else 1))
    curve = cost.curve(30)
    assert curve is not None
    assert curve[1:31] == pytest.approx([2 + 0.5 * rows for rows in range(1, 31)], rel=0.02)


def test_the_only_call_of_its_size_tells_little() -> None:
    cost = CallCost()
    for _ in range(3):
        cost.add(1, 1.0)
        cost.add(9, 3.0)
    cost.add(5, 100.0)
    cost.add(12, 100.0)
    curve = cost.curve(9)
    assert curve is not None
    assert curve[1:10] == pytest.approx([1 + (rows - 1) / 4 for rows in range(1, 10)])


def test_fewer_rows_than_were_ever_run_take_less() -> None:
    cost = CallCost()  # of a batch of 16 whose requests end one by one
    cost.add(16, 2.0)  # the only call of its size, and the one that tells what rows cost
    for rows, seconds in ((32, 3.1), (33, 3.2), (34, 3.0)) * 2:
        cost.add(rows, seconds)
    curve = cost.curve(34)
    assert curve is not None
    assert curve[16] == 2.0
    assert curve[32:] == [3.0, 3.0, 3.0]
    assert curve[4] == pytest.approx(2.0 - 12 / 18)
    steep = CallCost()
    for rows in (8, 9):
        steep.add(rows, rows - 7.0)
    assert steep.curve(9) == pytest.approx([rows / 8 for rows in range(9)] + [2.0])


def test_sizes_that_are_close_say_little_of_many_rows() -> None:
    cost = CallCost()
    for rows in (29, 30, 31, 32) * 2:
        cost.add(rows, 3.2)
    curve = cost.curve(320)
    assert curve is not None
    assert curve[320] == pytest.approx(3.2 + 0.1 * 0.1 * 288)
    cost.add(64, 50.0)  # a slow one, of two times the rows
    cost.add(30, 3.2)
    curve = cost.curve(64)
    assert curve is not None
    assert curve[64] == pytest.approx(6.4)


def drafted_calls(
    seconds: list[tuple[float, float]], temperature: float = 0.0, law: str = "deterministic"
) -> list[bool]:
    """Run calls of one request, a token of which takes the first plain and the second drafted."""
    worth, asked = Worth(), []
    sampling = fewstep.Sampling(temperature=temperature)
    request = Request(0, [1], 1, sampling, None, frozenset())
    for plain, drafted in seconds:
        asked.append(worth.drafts([request]))
        if asked[-1]:
            worth.learn(1, 2, 2 * drafted, 1 / plain)
            request.chosen = law == "deterministic"
    return asked


@pytest.mark.parametrize(
    ("temperature", "law"),
    [(0.0, "deterministic"), (1.0, "deterministic"), (0.0, "iid")],  # greedy: the same text
)
def test_nothing_is_drafted_where_plain_calls_are_faster(temperature: float, law: str) -> None:
    assert all(drafted_calls([(1.0, 0.7)] * 600, temperature, law))
    asked = drafted_calls([(1.0, 1.5)] * 2000, temperature, law)
    assert all(asked[:12])  # drafters learn from texts
    assert np.mean(asked[100:600]) < 0.04  # after pauses of 16, 32, .. four calls each
    assert 16 <= sum(asked[600:]) <= 28  # and of 256 calls in the end


def test_drafts_that_begin_to_pay_are_found() -> None:
    asked = drafted_calls([(1.0, 1.5)] * 1500 + [(1.0, 0.6)] * 600)
    assert all(asked[-300:])


def test_no_text_of_drawn_drafts_depends_on_what_calls_cost() -> None:
    assert all(drafted_calls([(1.0, 1.5)] * 600, 1.0, "iid"))


def test_a_drafter_is_judged_by_what_it_showed() -> None:
    """Chances are unknown at first: what is not verified would never show that it pays."""
    budget, rng = Budget(), np.random.default_rng(4)
    request = Request(0, [1], 1, fewstep.Sampling(temperature=0), None, frozenset())
    asked, hit = [], 0.0
    for call in range(900):
        hit = 0.0 if call < 300 else 0.8
        asked.append(budget.worth.drafts([request]))
        draft = chain(1)
        if asked[-1]:
            (draft,) = budget.cut([chain(6)], 0.1)
        nodes = len(draft.token)
        accepted = int(np.argmin([*(rng.random(nodes - 1) < hit), False]))
        budget.cost.add(nodes, 1.0 + 0.05 * nodes)
        if asked[-1]:
            budget.learn([draft], [range(1, accepted + 1)], 1.1 + 0.05 * nodes)
    assert np.mean(asked[100:300]) < 0.15
    assert all(asked[-150:])


def test_a_slow_first_call_is_not_believed() -> None:
    """The machine was busy when rows were first tried: they are tried again."""
    budget, rng = Budget(), np.random.default_rng(4)
    sizes, slow = [], 50.0
    for _ in range(100):
        (draft,) = budget.cut([chain(9)])
        nodes = len(draft.token)
        sizes.append(nodes - 1)
        accepted = int(np.argmin([*(rng.random(nodes - 1) < 0.7), False]))
        seconds = 1.0 + 0.05 * nodes
        if nodes > 1:
            seconds, slow = seconds * slow, 1.0
        budget.cost.add(nodes, seconds)
        budget.learn([draft], [range(1, accepted + 1)], seconds)
    assert np.median(sizes[-30:]) >= 3


def test_the_time_to_read_a_text_is_not_that_of_a_draft() -> None:
    """Each 50th call begins a text, which a draft model has to read: the others tell what pays."""
    budget, rng = Budget(), np.random.default_rng(4)
    request = Request(0, [1], 1, fewstep.Sampling(temperature=0), None, frozenset())
    for call in range(300):
        assert budget.worth.drafts([request])
        drafting = 0.1 if call % 50 else 30.0
        (draft,) = budget.cut([chain(6)], drafting)
        nodes = len(draft.token)
        accepted = int(np.argmin([*(rng.random(nodes - 1) < 0.8), False]))
        budget.cost.add(nodes, 1.0 + 0.05 * nodes)
        budget.learn([draft], [range(1, accepted + 1)], 1.0 + drafting + 0.05 * nodes)


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
