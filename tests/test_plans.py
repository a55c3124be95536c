# SPDX-License-Identifier: Apache-2.0
"""Plans from plans: weights, splices, entries against the plans they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import Sampler, plans, schedules, solver

VE = schedules.karras(0.05, 20.0)
GRIDS = {
    "ve": (VE, "x0"),
    "vp": (schedules.scaled_linear(spacing="trailing"), "v"),
    "flow": (schedules.flow(3.0), "flow"),
    "edm": (VE, "edm"),
}
SOLVERS: list[tuple[str, dict[str, Any]]] = [
    ("euler", {}), ("heun", {}), ("dpmpp_2m", {}), ("dpmpp_3m", {}), ("unipc", {"order": 3}),
    ("unipc", {"order": 2, "variant": "bh1"}), ("deis", {"order": 2}), ("deis", {"order": 4}),
]  # fmt: skip


def model(x: Any, t: Any) -> Any:
    t = np.asarray(t, np.float64)[:, None]
    return np.sin(np.asarray(x) + 0.1 * np.log1p(np.abs(t))).astype(np.float32)


def draw(plan: Any, **more: Any) -> Any:
    more = {"shape": (3, 7), **more}
    return np.asarray(Sampler(plan)(model, seeds=[1, 2, 3], **more), np.float64)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("solver_name", range(len(SOLVERS)))
def test_weights_are_the_plan(grid: str, solver_name: int) -> None:
    name, options = SOLVERS[solver_name]
    schedule, prediction = GRIDS[grid]
    if name == "heun" and grid == "flow":
        pytest.skip("heun needs signal at its first node")
    steps = 3 if name == "heun" else 6
    plan = solver.plan(name, steps=steps, schedule=schedule, prediction=prediction, **options)
    weights = plans.weights_of(plan)
    same = plans.from_weights(plan, weights)
    for a, b in zip(weights, plans.weights_of(same), strict=True):
        assert b == pytest.approx(a, rel=1e-9, abs=1e-11)
    if name != "heun":  # whose stages are not samples of the trajectory
        assert same.validate() < 1e-9
    expected = draw(plan)
    assert draw(same) == pytest.approx(expected, rel=2e-5, abs=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_of_a_clamped_plan(grid: str) -> None:
    schedule, prediction = GRIDS[grid]
    plan = solver.plan("dpmpp_2m", steps=5, schedule=schedule, prediction=prediction, clip=0.3)
    same = plans.from_weights(plan, plans.weights_of(plan))
    assert draw(same) == pytest.approx(draw(plan), rel=1e-5, abs=1e-5)
    assert np.abs(draw(same)).max() <= 0.3 + 1e-6


def test_guidance_and_known_images_stay() -> None:
    plan = solver.plan("deis", steps=4, schedule=VE, prediction="x0")
    same = plans.from_weights(plan, plans.weights_of(plan))
    known = np.full((3, 7), 0.5, np.float32)
    mask = (np.arange(21) % 2).reshape(3, 7).astype(np.float32)
    a, b = (draw(p, known=known, mask=mask) for p in (plan, same))
    assert b == pytest.approx(a, rel=1e-5, abs=1e-5)
    assert b[mask == 0] == pytest.approx(0.5)


def test_a_long_plan_with_short_history() -> None:
    plan = solver.plan("dpmpp_3m", steps=40, schedule=VE, prediction="x0")
    same = plans.from_weights(
        plan, [np.where(np.abs(w) < 1e-9, 0, w) for w in plans.weights_of(plan)]
    )
    assert same.slots == 3
    assert draw(same) == pytest.approx(draw(plan), rel=1e-4, abs=1e-4)


ALL = [("euler", {}), ("dpmpp_2m", {"variant": "heun"}), ("dpmpp_3m", {}), ("deis", {"order": 3}),
       ("deis", {"order": 2, "variant": "rho"}), ("unipc", {"order": 2}),
       ("unipc", {"order": 3})]  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS)
def test_splices(grid: str) -> None:
    schedule, prediction = GRIDS[grid]
    made = [solver.plan(n, steps=6, schedule=schedule, prediction=prediction, **o) for n, o in ALL]
    for i, plan in enumerate(made):
        same = plans.weights_of(plans.splice(made, [i] * 6))
        for a, b in zip(plans.weights_of(plan), same, strict=True):
            assert b == pytest.approx(a, rel=1e-9, abs=1e-11)
    rng = np.random.default_rng(3)
    for _ in range(20):
        choice = rng.integers(0, len(made), 6).tolist()
        mixed = plans.splice(made, choice)
        assert mixed.validate() < 1e-9
        assert mixed.calls == 6


def test_a_splice_keeps_the_order_of_its_rows() -> None:
    """Alternating third-order rows of two frames beat first order from a first-order start."""

    def error(steps: int) -> float:
        schedule = schedules.exponential(0.5, 2.0, final_zero=False)
        made = [solver.plan(n, steps=steps, schedule=schedule, prediction="x0", order=3,
                            lower_order_final=False)
                for n in ("unipc", "deis")]  # fmt: skip
        plan = plans.splice(made, [i % 2 for i in range(steps)])
        # Data N(0, 1): x(sigma) = x(2) sqrt((1 + sigma^2) / 5).
        x = np.ones((1, 1))
        weights = plans.weights_of(plan)
        predictions: list[Any] = []
        for row, w in zip(plan.rows, weights, strict=True):
            predictions.insert(0, x / (1 + row.sigma**2))
            x = w[0] * x + sum(v * h for v, h in zip(w[1:], predictions, strict=True))
        return abs(float(x[0, 0]) - float(np.sqrt(1.25 / 5)))

    # At most six earlier predictions: seven rows are the longest such splice.
    slope = np.log2(error(3) / error(6))
    assert slope > 1.5


def test_entry_takes_the_sample_as_it_is() -> None:
    plan = solver.plan("dpmpp_2m", steps=6, schedule=VE, prediction="x0")
    _, path = Sampler(plan)(model, (3, 7), seeds=[1, 2, 3], trajectory=True)
    entered = plans.enter(plan)
    again = draw(entered, shape=None, x0=path[0], start=0)
    assert again.tolist() == np.asarray(path[-1], np.float64).tolist()
    middle = plans.enter(solver.plan("euler", steps=6, schedule=VE, prediction="x0"), 2)
    assert len(middle) == 4
    with pytest.raises(ValueError, match=r"'start' must be in \[0, 6\), got 6"):
        plans.enter(plan, 6)


ERRORS = [
    (lambda p: plans.weights_of(solver.plan("ddpm", steps=3, schedule=VE)),
     "fewstep.plans.weights_of: 'plan' must be deterministic, got noise in row 0"),
    (lambda p: plans.from_weights(p, [[1, 1]]),
     "fewstep.plans.from_weights: 'weights' must have 3 rows, got 1"),
    (lambda p: plans.from_weights(p, [[1, 1], [1, 1, 1, 1], [1, 1]]),
     "fewstep.plans.from_weights: 'weights[1]' must have 2 to 3 entries, got (4,)"),
    (lambda p: plans.from_weights(p, [[1, 1], [1, np.nan], [1, 1]]),
     "fewstep.plans.from_weights: 'weights[1]' must be finite, got [1.0, nan]"),
    (lambda p: plans.splice([], []), "fewstep.plans.splice: 'plans' must not be empty, got 0"),
    (lambda p: plans.splice([p], [0, 1, 0]),
     "fewstep.plans.splice: 'choice' must be 3 indices below 1, got [0, 1, 0]"),
    (lambda p: plans.splice([p, solver.plan("euler", steps=3, schedule=VE)], [0, 1, 0]),
     "fewstep.plans.splice: 'plans[1]' must make the model calls of plans[0], got others"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[m[1][:60] for m in ERRORS])
def test_errors(make: Any, message: str) -> None:
    plan = solver.plan("euler", steps=3, schedule=VE, prediction="x0")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make(plan)
    assert str(error.value) == message


def test_too_much_history() -> None:
    plan = solver.plan("deis", steps=9, schedule=VE, prediction="x0", order=3)
    with pytest.raises(ValueError, match="read at most 6 earlier predictions in a row, got 7"):
        plans.from_weights(plan, plans.weights_of(plan))
