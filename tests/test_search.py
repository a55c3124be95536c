# SPDX-License-Identifier: Apache-2.0
"""Plan makers: exactness where an answer is known; tests/test_search_digits.py has a network."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fewstep import plans, schedules, search
from fewstep.search import _compensate


def gaussian(batch: int = 64, steps: int = 32, spread: float = 1.0, **more: Any) -> search.Problem:
    """Data N(0, spread^2): x(sigma) is proportional to sqrt(spread^2 + sigma^2)."""

    def model(x: Any, t: Any) -> Any:
        t = np.asarray(t, np.float64)[:, None]
        return (np.asarray(x, np.float64) * spread**2 / (spread**2 + t**2)).astype(np.float32)

    more = {"schedule": schedules.exponential(0.02, 20.0), "teacher_steps": steps, **more}
    return search.Problem(model, (batch, 8), prediction="x0", **more)


def test_the_teacher_is_right() -> None:
    problem = gaussian()
    levels = [20.0, 7.0, 0.3, 0.02]
    states = problem.states(levels)
    for level, state in zip(levels, states, strict=True):
        exact = states[0] * np.sqrt((1 + level**2) / 401)
        assert state == pytest.approx(exact, rel=2e-3)
    x0 = states[-1] / (1 + 0.02**2)
    assert problem.reference == pytest.approx(x0, rel=2e-3)
    assert problem.predict(states[1], 7.0) == pytest.approx(states[1] / 50, rel=1e-6)


@pytest.mark.parametrize("grid", ["vp", "flow", "ve", "clamped"])
def test_runs_tell_what_the_plan_did(grid: str) -> None:
    schedule, prediction = {
        "vp": (schedules.scaled_linear(), "v"), "flow": (schedules.flow(3.0), "flow"),
        "ve": (schedules.karras(), "epsilon"), "clamped": (schedules.karras(), "x0"),
    }[grid]  # fmt: skip
    options = {"clip": 0.4} if grid == "clamped" else {}
    problem = search.Problem(lambda x, t: np.sin(x), (4, 3), schedule=schedule,
                             prediction=prediction, **options)  # fmt: skip
    plan = problem.plan("deis", 5)
    seen = problem.run(plan)
    for i, w in enumerate(plans.weights_of(plan)):
        columns = [seen.states[i], *seen.predictions[: i + 1][::-1]]
        expected = sum(a * c for a, c in zip(w, columns, strict=True))
        assert seen.states[i + 1] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert problem.sample(plan).tolist() == seen.states[-1].tolist()


@pytest.mark.parametrize("discount", [1.0, 1.3, 0.7])
def test_best_path_is_the_best(discount: float) -> None:
    cost = np.random.default_rng(0).random((8, 8))
    for steps in range(1, 8):

        def total(path: Any) -> float:
            moves = itertools.pairwise(path)
            return sum(float(cost[i, j]) * discount**k for k, (i, j) in enumerate(moves))

        inner = itertools.combinations(range(1, 7), steps - 1)
        best = min(((0, *middle, 7) for middle in inner), key=total)
        assert search.best_path(cost, steps, discount) == list(best)


def test_align_your_steps_of_gaussian_data() -> None:
    """D is a martingale along the noise: E|D_s - D_i|^2 = Var D_s - Var D_i, here 1 / (1 + s^2)."""
    schedule = schedules.exponential(0.1, 20.0, final_zero=False)
    problem = gaussian(600, 40, schedule=schedule)
    levels = problem.levels
    cost = np.full((len(levels), len(levels)), np.inf)
    for i, j in itertools.combinations(range(len(levels)), 2):
        s = np.geomspace(levels[i], levels[j], 2001)
        f = (1 / (1 + s**2) - 1 / (1 + levels[i] ** 2)) / s**3
        cost[i, j] = ((f[1:] + f[:-1]) / 2 * (s[:-1] - s[1:])).sum()

    def total(places: Any) -> float:
        return sum(float(cost[i, j]) for i, j in itertools.pairwise(places))

    for steps in (3, 6, 10):
        found = search.ays(problem, steps).nodes().sigma
        ours = [int(np.abs(levels - v).argmin()) for v in found]
        best = search.best_path(cost, steps)
        even = np.linspace(0, len(levels) - 1, steps + 1).round().astype(int)
        assert total(ours) <= 1.02 * total(best)
        assert total(ours) < 0.95 * total(even)


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_boss_finds_the_least_cost(steps: int) -> None:
    """On one-dimensional Gaussian data the cost of a step is known."""
    problem = gaussian(32, 12)
    found = search.boss(problem, steps).nodes().sigma
    levels = problem.levels
    start = problem.states([levels[0]])[0] / np.sqrt(1 + levels[0] ** 2)
    exact = [s * start for s in np.sqrt(1 + levels**2)]

    def cost(i: int, j: int) -> float:
        keep = levels[j] / levels[i]
        step = keep * exact[i] + (1 - keep) * exact[i] / (1 + levels[i] ** 2)
        target = exact[j]
        return float(((step - target) ** 2).sum(1).mean())

    inner = itertools.combinations(range(1, len(levels) - 1), steps - 1)
    best = min(((0, *m, len(levels) - 1) for m in inner),
               key=lambda path: sum(cost(i, j) for i, j in itertools.pairwise(path)))  # fmt: skip
    ours = [int(np.abs(levels - v).argmin()) for v in found]
    total = [sum(cost(i, j) for i, j in itertools.pairwise(p)) for p in (ours, best)]
    assert total[0] <= 1.05 * total[1]


def test_iia_is_exact_where_it_can_be() -> None:
    """Gaussian data: one weight on the sample carries it exactly to the next node."""
    problem = gaussian()
    plan = problem.plan("euler", 4)
    free = search.iia(problem, plan, consistent=False, ridge=0.0)
    assert problem.error(free) < 1e-5 * problem.error(plan)
    kept = search.iia(problem, plan)
    assert kept.validate() < 1e-9
    assert problem.error(kept) < 0.05 * problem.error(plan)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_ratios_of_one_are_unipc(order: int, variant: str) -> None:
    problem = gaussian()
    plan = problem.plan("unipc", 5, order=order, variant=variant, lower_order_final=False)
    weights, _ = _compensate._compensated(
        problem.plan("unipc", order=order, variant=variant, lower_order_final=False,
                     schedule=problem.schedule_at([*plan.sigmas, plan.sigmas[-1] / 2, 0])).rows[:4],
        np.ones(4), -np.log(plan.sigmas), 3)  # fmt: skip
    for a, b in zip(weights, plans.weights_of(plan), strict=False):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-11)


def test_compensated_history_is_the_interpolation() -> None:
    """One compensated row by hand: second order, first correction at node 1."""
    problem = gaussian()
    levels = np.array([20.0, 5.0, 1.0, 0.2, 0.0])
    long = problem.schedule_at([*levels[:-1], 0.1, 0.0])
    rows = problem.plan("unipc", schedule=long, order=2, lower_order_final=False).rows[:2]
    lam = -np.log(levels[:-1])
    plain, _ = _compensate._compensated(rows, np.ones(2), lam, 2)
    moved, kept = _compensate._compensated(rows, np.array([1.0, 1.4]), lam, 2)
    assert kept[1] == pytest.approx([0, -0.4, 1.4])  # 1.4 h_1 - 0.4 h_0
    # The predictor's weight on h_1: second-order Adams-Bashforth with UniPC's 1/2.
    h, h0 = lam[2] - lam[1], lam[1] - lam[0]
    gain = -np.expm1(-h) * (1 + h / h0 / 2)
    change = moved[1] - plain[1]
    assert change == pytest.approx([0, 0.4 * gain, -0.4 * gain], abs=1e-12)


def midpoint(ends: Any, model: Any, y: Any) -> Any:
    """The midpoint rule in sigma, its middle at the geometric mean, with the final call."""
    for t, to in itertools.pairwise(ends):
        m = np.sqrt(t * to)
        y_m = y + (m - t) * (y - model(y, t)) / t
        y = y + (to - t) * (y_m - model(y_m, m)) / m
    return model(y, ends[-1])


def test_two_call_families_begin_at_the_midpoint_rule() -> None:
    problem = gaussian(4)
    ends = np.array([20.0, 3.0, 0.4, 0.05])
    start = problem.states([20.0])[0]
    exact = midpoint(ends, lambda y, t: y / (1 + t**2), start)
    for plan in (search.bespoke_plan(problem, ends, np.zeros(22)),
                 search.amed_plan(problem, ends, np.zeros(9))):  # fmt: skip
        assert plan.calls == 7
        assert problem.sample(plan) == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_bespoke_is_the_midpoint_rule_of_the_transformed_path() -> None:
    """y_bar(r) = s(r) y(t(r)): its slope is (s'/s) y_bar + s t' u(y_bar / s, t)."""
    problem = gaussian(4)
    ends = np.array([20.0, 2.0, 0.1])
    rng = np.random.default_rng(1)
    p = 0.1 * rng.standard_normal(14)
    i, m, sl, sl_m, sc, sc_m, be, be_m = np.split(p, np.cumsum([1, 2, 2, 2, 1, 2, 2]))
    t = ends * np.exp([0, i[0], 0])
    t_m = np.sqrt(t[:-1] * t[1:]) * np.exp(m)
    s, s_m, h = np.exp([0, sc[0], 0]), np.exp(sc_m), 0.5
    y = problem.states([20.0])[0]

    def u(y: Any, t: float) -> Any:
        return (y - y / (1 + t**2)) / t

    for k in range(2):
        dt = 2 * (t_m[k] - t[k]) / h * np.exp(sl[k])
        dt_m = (t[k + 1] - t[k]) / h * np.exp(sl_m[k])
        z = (s[k] + h / 2 * be[k]) * y + h / 2 * s[k] * dt * u(y, t[k])
        slope = be_m[k] / s_m[k] * z + dt_m * s_m[k] * u(z / s_m[k], t_m[k])
        y = (s[k] * y + h * slope) / s[k + 1]
    plan = search.bespoke_plan(problem, ends, p)
    exact = y / (1 + 0.1**2)
    assert problem.sample(plan) == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_amed_is_exact_on_gaussian_data() -> None:
    """The mean value theorem: one direction can carry a sample exactly, and does here."""
    problem = gaussian(8)
    plan = search.amed(problem, 2, iterations=12)
    start = search.amed_plan(problem, np.array([20.0, np.sqrt(0.4), 0.02]), np.zeros(6))
    assert problem.error(plan) < 0.02 * problem.error(start)


def test_refine_is_exact_where_it_can_be() -> None:
    problem = gaussian()
    plan = problem.plan("euler", 3)
    found = search.refine(problem, plan, consistent=False, iterations=12)
    assert problem.error(found) < 1e-3 * problem.error(plan)
    fixed = search.refine(problem, plan, move_nodes=False, iterations=20)
    assert fixed.validate() < 1e-9
    assert fixed.sigmas.tolist() == plan.sigmas.tolist()
    assert problem.error(fixed) < 0.1 * problem.error(plan)


def test_iia_ridge_goes_back_to_the_start() -> None:
    problem = gaussian()
    plan = problem.plan("deis", 4)
    weights = plans.weights_of(search.iia(problem, plan, ridge=1e9))
    for a, b in zip(weights, plans.weights_of(plan), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_torch_models_and_bars() -> None:
    torch = pytest.importorskip("torch")
    problem = search.Problem(
        lambda x, t: x / (1 + t[:, None] ** 2), (6, 4), prediction="x0", device="cpu",
        schedule=schedules.exponential(0.05, 20.0), teacher_steps=16, dtype=torch.float32,
    )  # fmt: skip
    start = problem.plan("euler", 3)
    bars = {"progress": True}
    found = search.refine(problem, search.iia(problem, start, **bars), iterations=2, **bars)
    assert problem.error(found) < 0.5 * problem.error(start)
    for schedule in (search.boss(problem, 3, **bars), search.gits(problem, 3, **bars),
                     search.ays(problem, 3, **bars),
                     search.autodiffusion(problem, 3, generations=1, **bars)):  # fmt: skip
        assert problem.plan("euler", schedule=schedule).calls == 3
    for plan in (search.s3(problem, 3, generations=1, **bars),
                 search.dc_solver(problem, 3, iterations=1, **bars),
                 search.bespoke(problem, 1, iterations=1, **bars),
                 search.amed(problem, 1, iterations=1, **bars)):  # fmt: skip
        assert plan.calls == 3
    assert search.dpm_ot(problem, start, 1, iterations=3, **bars)[0].calls == 2


def test_searches_repeat() -> None:
    problem = gaussian(8, 16)
    one = search.s3(problem, 3, generations=2, seed=5)
    assert search.s3(problem, 3, generations=2, seed=5) == one
    assert search.iia(problem, one) == search.iia(problem, one)
    assert search.ays(problem, 3, seed=1) == search.ays(problem, 3, seed=1)


def test_s3_is_no_worse_than_its_choices() -> None:
    problem = gaussian(8, 16)
    plans_of = [problem.plan(n, 3, **o) for n, o in search.CHOICES]
    found = search.s3(problem, 3, generations=1, population=12, move_nodes=False)
    # The start's nodes are the fine levels nearest to the schedule's, here not quite the same.
    assert problem.error(found) < 1.3 * min(problem.error(p) for p in plans_of)


def test_custom_fitness_decides() -> None:
    problem = gaussian(4, 16)
    found = search.autodiffusion(problem, 3, fitness=lambda p: float(p.sigmas[1]), generations=40)
    assert found.nodes().sigma[1] == pytest.approx(problem.levels[-3])


def test_other_processes_and_guidance_of_torch_models() -> None:
    for schedule, prediction in ((schedules.scaled_linear(), "epsilon"),
                                 (schedules.flow(2.0, sigma_max=0.99), "flow")):  # fmt: skip
        problem = search.Problem(lambda x, t: np.tanh(x), (8, 4), schedule=schedule,
                                 prediction=prediction, teacher_steps=24)  # fmt: skip
        start = problem.plan("euler", 4)
        found = problem.plan("euler", schedule=search.boss(problem, 4))
        assert problem.error(search.iia(problem, found)) < problem.error(start)


ERRORS = [
    (lambda p: search.boss(p, 40), "fewstep.search: 'steps' must be 1 to 16, got 40"),
    (lambda p: search.gits(p, 3, metric="l3"),  # type: ignore[arg-type]
     "fewstep.search.gits: 'metric' must be l1 or l2, got 'l3'"),
    (lambda p: search.gits(p, 3, coefficient=0.0),
     "fewstep.search.gits: 'coefficient' must be above 0, got 0.0"),
    (lambda p: search.iia(p, p.plan("euler", 3), ridge=-1.0),
     "fewstep.search.iia: 'ridge' must be at least 0, got -1.0"),
    (lambda p: search.dc_solver(p, 9),
     "fewstep.search.dc_solver: 'steps' must be 2 to 7, got 9"),
    (lambda p: search.dc_solver(p, 4, points=4),
     "fewstep.search.dc_solver: 'points' must be 2 or 3, got 4"),
    (lambda p: search.bespoke(p, 0), "fewstep.search.bespoke: 'steps' must be 1 to 100, got 0"),
    (lambda p: search.amed_plan(p, np.array([2.0, 1.0]), np.zeros(4)),
     "fewstep.search.amed_plan: 'parameters' must have shape [3], got [4]"),
    (lambda p: search.s3(p, 8), "fewstep.search.s3: 'steps' must be 1 to 7, got 8"),
    (lambda p: search.s3(p, 3, choices=[]),
     "fewstep.search.s3: 'choices' must not be empty, got none"),
    (lambda p: search.autodiffusion(p, 40),
     "fewstep.search.autodiffusion: 'steps' must be 1 to 16, got 40"),
    (lambda p: p.states([50.0]), "Problem: 'levels' must lie in [0.0, 20.0], got 50.0"),
    (lambda p: gaussian(4, 3), "Problem: 'teacher_steps' must be at least 4, got 3"),
    (lambda p: gaussian(schedule=schedules.vp_sde()),
     "Problem: 'schedule' must tell the time at any noise level, got vp_sde"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[m[1][:60] for m in ERRORS])
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make(gaussian(4, 16))
    assert str(error.value) == message
