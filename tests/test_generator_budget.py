# SPDX-License-Identifier: Apache-2.0
"""How many drafted nodes are verified: what pays by the clock, on quiet machines and busy ones."""

from __future__ import annotations

import numpy as np
import pytest

from fewstep._generate.budget import Budget, CallCost
from fewstep.drafters import Draft


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


def test_a_few_calls_of_others_do_not_move_the_cost() -> None:
    cost, rng = CallCost(), np.random.default_rng(4)
    assert cost.line() is None
    for i in range(400):
        rows = int(rng.integers(1, 20))
        cost.add(rows, (2 + 0.5 * rows) * (50 if i % 4 == 0 else 1))
    line = cost.line()
    assert line is not None
    assert line == pytest.approx((2, 0.5), rel=0.1)
