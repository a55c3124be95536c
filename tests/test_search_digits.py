# SPDX-License-Identifier: Apache-2.0
"""Plan makers on the digits network: at equal model calls, closer to the reference than the start.

The searches see one set of seeds, the errors are of another, against an independent float64 ODE
solution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import search
from fewstep.search._nodes import kl_costs
from fewstep.solver import Plan

from .cases import digits

TRAIN = 200


def report(name: str, start: Plan, found: Plan) -> tuple[float, float]:
    """Print and return held-out errors of the digits; model calls must be equal."""
    held_out = digits.judge()
    assert found.calls == start.calls
    before, after = held_out.error(start), held_out.error(found)
    print(f"\n{name}: {start.calls} calls, RMS {before:.4f} -> {after:.4f} ({after / before:.2f}x)")
    assert Plan.from_json(found.to_json()) == found
    return before, after


def test_iia_and_refine_on_digits() -> None:
    """The best searched plan of five calls against the best of all solvers and schedules."""
    problem = digits.problem(2 * TRAIN, 1000)
    start = problem.plan("deis", 5, order=2, schedule=digits.SCHEDULES["kl_optimal"])
    fitted = search.iia(problem, start)
    before, after = report("iia", start, fitted)
    assert after < 0.75 * before
    found = search.refine(problem, fitted, consistent=False, iterations=4)
    _, after = report("refine", fitted, found)
    bar, whose = digits.best_unsearched(5)
    print(f"best unsearched: {bar:.4f} ({whose}); searched / unsearched {after / bar:.2f}")
    assert after <= 0.7 * bar


def test_boss_and_gits_on_digits() -> None:
    problem = digits.problem(TRAIN, 1000)
    start = problem.plan("euler", 5)
    for name, make in (("boss", search.boss), ("gits", search.gits)):
        found = problem.plan("euler", schedule=make(problem, 5))
        before, after = report(name, start, found)
        assert after < 0.85 * before


def test_ays_on_digits() -> None:
    """Ten steps on unseen digits: the bound, and how far the samples are from real ones."""
    train, held_out = digits.problem(TRAIN, 1000), digits.problem(TRAIN, 0)
    found = search.ays(train, 10)
    levels, cost = kl_costs(held_out, seed=1)

    def bound(schedule: Any) -> float:
        nodes = schedule.nodes(10).sigma
        path = np.abs(levels[:, None] - nodes).argmin(0)  # the nearest of the teacher's levels
        return float(cost[path[:-1], path[1:]].sum())

    bounds = {name: bound(schedule) for name, schedule in digits.SCHEDULES.items()}
    print(
        f"\nays: bound {bound(found):.3f}, others "
        + str({k: round(v, 3) for k, v in bounds.items()})
    )
    assert bound(found) < 0.9 * min(bounds.values())

    start = held_out.plan("euler_ancestral", 10, schedule=digits.SCHEDULES["beta"])
    before = digits.frechet_distance(start)
    after = digits.frechet_distance(held_out.plan("euler_ancestral", schedule=found))
    print(f"ten ancestral steps, Frechet distance {before:.3f} (beta) -> {after:.3f}")
    assert after < 0.75 * before


@pytest.mark.parametrize(("order", "schedule"), [(2, "kl_optimal"), (3, "exponential")])
def test_dc_solver_on_digits(order: int, schedule: str) -> None:
    problem = digits.problem(TRAIN, 1000)
    nodes = digits.SCHEDULES[schedule]
    start = problem.plan("unipc", 5, schedule=nodes, order=order, lower_order_final=False)
    found = search.dc_solver(problem, 5, schedule=nodes, order=order)
    before, after = report(f"dc_solver of order {order} on {schedule}", start, found)
    assert after < 0.8 * before


def test_dc_solver_is_no_worse_than_its_start() -> None:
    """UniPC of order 2 with levels even in log sigma has next to nothing to gain."""
    problem = digits.problem(TRAIN, 1000)
    start = problem.plan("unipc", 5, order=2, lower_order_final=False)
    assert problem.error(search.dc_solver(problem, 5)) <= problem.error(start)


def test_bespoke_and_amed_on_digits() -> None:
    problem = digits.problem(50, 1000)
    ends = digits.SCHEDULES["exponential"].nodes(3).sigma[:-1]
    for name, make, family, size in (
        ("bespoke", search.bespoke, search.bespoke_plan, 14),
        ("amed", search.amed, search.amed_plan, 6),
    ):
        start = family(problem, ends, np.zeros(size))
        before, after = report(name, start, make(problem, 2, iterations=6))
        assert after < 0.6 * before


def test_autodiffusion_on_digits() -> None:
    problem = digits.problem(50, 1000)
    kl = digits.SCHEDULES["kl_optimal"]
    found = search.autodiffusion(problem, 5, solver="deis", order=2, start=kl, generations=8)
    start = problem.plan("deis", 5, order=2, schedule=kl)
    before, after = report("autodiffusion", start, problem.plan("deis", order=2, schedule=found))
    assert after < 0.95 * before


def test_s3_on_digits() -> None:
    problem = digits.problem(50, 1000)
    kl = digits.SCHEDULES["kl_optimal"]
    found = search.s3(problem, 5, start=kl, generations=15)
    start = problem.plan("deis", 5, order=2, schedule=kl)
    before, after = report(f"s3, {found.name}", start, found)
    assert after < 0.85 * before
