# SPDX-License-Identifier: Apache-2.0
"""What comes before a plan and between plans: One More Step and cascades of resolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import Sampler, noise, plans, schedules, solver
from fewstep.guidance import cfg

VP = schedules.scaled_linear(spacing="trailing")
OUTPUTS = {"v": -0.7, "x0": 0.7, "flow": None}


@pytest.mark.parametrize("prediction", OUTPUTS)
@pytest.mark.parametrize("name", ["ddim", "unipc", "ddpm"])
def test_one_more_step_begins_from_the_first_models_image(prediction: str, name: str) -> None:
    plan = solver.plan(name, steps=4, schedule=VP, prediction="x0")
    longer = plans.one_more_step(plan, prediction=prediction, t=1234.0)
    assert longer.validate() < 1e-9
    assert longer.times.tolist() == [1234.0, *plan.times.tolist()]
    seen: list[Any] = []

    def model(x: Any, t: Any) -> Any:
        seen.append((t.copy(), x.copy()))
        if t[0] == 1234.0:  # x0 = 0.7 in each prediction at alpha = 0
            return x - 0.7 if prediction == "flow" else np.full_like(x, OUTPUTS[prediction])
        return np.tanh(x)

    Sampler(longer)(model, (2, 5), seeds=[8, 9])
    assert np.array_equal(seen[0][1], noise.normal([8, 9], (5,), stream=noise.STREAM_START))
    fresh = noise.normal([8, 9], (5,), stream=noise.STREAM_USER)
    first = plan.rows[0]
    assert seen[1][1] == pytest.approx(first.alpha * 0.7 + first.sigma * fresh, rel=1e-5, abs=1e-6)
    assert seen[1][0][0] == first.t


def test_the_first_call_is_at_no_signal() -> None:
    plan = plans.one_more_step(solver.plan("ddim", steps=3, schedule=VP, prediction="x0"))
    row = plan.rows[0]
    assert (row.alpha, row.sigma, row.t) == (0.0, 1.0, 1000.0)
    assert row.noise[0][0] == row.next_sigma


def test_one_more_step_has_guidance_of_its_own() -> None:
    plan = plans.one_more_step(solver.plan("ddim", steps=3, schedule=VP))
    guided = plan.with_guidance([[2.0, -1.0], *[[7.5, -6.5]] * 3])
    assert [r.gamma for r in guided.rows] == [(2.0, -1.0), *[(7.5, -6.5)] * 3]


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_reentry_is_the_published_formula(gamma: float) -> None:
    level, side, larger = 0.8, 512.0, 1024.0
    bar = 1 / (1 + level**2)
    rho = (side / larger) ** gamma
    published = rho * bar / (1 + (rho - 1) * bar)
    ours = plans.reentry_level(level, side, larger, gamma=gamma)
    assert 1 / (1 + ours**2) == pytest.approx(published, rel=1e-12)
    # Flow, as published for t = sigma: t' = r t / (1 + (r - 1) t) with r = larger / side.
    t, r = 0.4, larger / side
    again = plans.reentry_level(t / (1 - t), side, larger)
    assert again / (1 + again) == pytest.approx(r * t / (1 + (r - 1) * t), rel=1e-12)


GRIDS = {
    "vp": (VP, "v"),
    "ve": (schedules.karras(0.03, 15.0), "epsilon"),
    "flow": (schedules.flow(3.0, sigma_max=0.98), "flow"),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_cascade_stages(grid: str) -> None:
    schedule, prediction = GRIDS[grid]
    made = plans.cascade("dpmpp_2m", schedule=schedule, prediction=prediction, steps=[5, 3, 2],
                         sides=[8, 16, 24], stops=[1.2, 0.7])  # fmt: skip
    assert [p.calls for p in made] == [5, 3, 2]
    ratio = [p.sigmas / p.alphas for p in made]
    assert ratio[0][-1] == pytest.approx(1.2)
    assert ratio[1][[0, -1]] == pytest.approx([2.4, 0.7])
    assert ratio[2][0] == pytest.approx(0.7 * 1.5)
    for plan in made:
        assert plan.validate() < 1e-9
        assert plan.rows[-1].next_sigma == 0
    # A single stage over the whole schedule has the schedule's own ends.
    (whole,) = plans.cascade("euler", schedule=schedule, prediction=prediction, steps=[6],
                             sides=[8], stops=[])  # fmt: skip
    fine = schedule.nodes(1000)
    levels = (fine.sigma / fine.alpha)[:-1]
    assert (whole.sigmas / whole.alphas)[[0, -1]] == pytest.approx(levels[[0, -1]])


def test_cascade_runs() -> None:
    schedule, prediction = GRIDS["ve"]
    made = plans.cascade("euler", schedule=schedule, prediction="x0", steps=[3, 2], sides=[4, 8],
                         stops=[1.0])  # fmt: skip
    calls: list[Any] = []

    def model(x: Any, t: Any) -> Any:
        calls.append((x.shape, float(t[0]), x.copy()))
        return np.full_like(x, 0.25)

    def double(x: Any, shape: Any) -> Any:
        assert x == pytest.approx(0.25)
        return np.repeat(np.repeat(x, 2, 1), 2, 2).reshape(shape) * 2

    end = plans.run_cascade(made, model, [(2, 4, 4), (2, 8, 8)], double, seeds=[1, 2])
    assert end == pytest.approx(0.25)
    assert [c[0] for c in calls] == [(2, 4, 4)] * 3 + [(2, 8, 8)] * 2
    level = made[1].sigmas[0]
    assert level == pytest.approx(2.0)
    added = (calls[3][2] - 0.5) / level
    assert abs(added.std() - 1) < 0.2
    # Not the first stage's noise again.
    first = calls[0][2].ravel()[:32] / made[0].sigmas[0]
    assert abs(np.corrcoef(first, added.ravel()[:32])[0, 1]) < 0.6
    assert prediction == "epsilon"


def test_cascade_conditions_by_stage() -> None:
    made = plans.cascade("euler", schedule=GRIDS["ve"][0], prediction="x0", steps=[1, 1],
                         sides=[1, 2], stops=[2.0])  # fmt: skip
    sizes = []

    def model(x: Any, t: Any, size: int) -> Any:
        sizes.append(size)
        return x * 0

    each = [{"size": 1}, {"size": 2}]
    plans.run_cascade(made, model, [(1, 2), (1, 4)], lambda x, s: np.zeros(s),
                      guidance=cfg(2.0), cond=each, uncond=each)  # fmt: skip
    assert sizes == [1, 2]


ERRORS = [
    (lambda: plans.one_more_step(solver.plan("ddim", steps=2, schedule=GRIDS["ve"][0])),
     "fewstep.plans.one_more_step: 'plan' must be of a VP or flow process and begin with signal, "
     "got alpha=1.0, sigma=15.0"),
    (lambda: plans.one_more_step(solver.plan("ddim", steps=2, schedule=VP), prediction="epsilon"),
     "fewstep.plans.one_more_step: 'prediction' must be v, x0 or flow, got 'epsilon'"),
    (lambda: plans.reentry_level(0.0, 1, 2),
     "fewstep.plans.reentry_level: 'level' must be above 0, got 0.0"),
    (lambda: plans.cascade("euler", schedule=VP, steps=[1, 1], sides=[1, 2], stops=[]),
     "fewstep.plans.cascade: 'stops' must have one entry less than 'steps' and 'sides', got "
     "0, 2, 2"),
    (lambda: plans.cascade("euler", schedule=VP, steps=[1, 1], sides=[2, 2], stops=[1.0]),
     "fewstep.plans.cascade: 'sides' must increase, got [2, 2]"),
    (lambda: plans.cascade("euler", schedule=VP, steps=[1, 1], sides=[1, 9], stops=[10.0]),
     "fewstep.plans.cascade: 'stops' must let the next stage begin within the schedule, got 10.0 "
     "for a start at 90 above 14.6146"),
    (lambda: plans.run_cascade([], lambda x, t: x, [(1, 2)], lambda x, s: x),
     "fewstep.plans.run_cascade: 'shapes' must have one entry for each of 0 plans, got 1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[m[1][:60] for m in ERRORS])
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    assert str(error.value) == message
