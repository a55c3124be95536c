# SPDX-License-Identifier: Apache-2.0
"""Guidance that the plan decides, and corrections: each against its paper's formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep import guidance, schedules, solver
from reference import solver as reference

VE = schedules.sigmas([8.0, 3.0, 1.0, 0.4, 0.0])
VP = schedules.sigmas([8.0, 3.0, 1.0, 0.4, 0.0], process="vp")
FLOW = schedules.flow(3.0)
RNG = np.random.default_rng(8)
X = RNG.normal(size=(2, 5))
PREDICTIONS = ("epsilon", "x0", "v")


def converted(row: Any, output: np.ndarray) -> np.ndarray:
    return row.p * X + row.q * output


def noise_of(row: Any, x0: np.ndarray) -> np.ndarray:
    return (X - row.alpha * x0) / row.sigma


def after(plan: Any, row: int, outputs: list[np.ndarray], noises: Any = ()) -> np.ndarray:
    """The sample after a row of the guided plan, in float64."""
    slots = [X, *(np.zeros_like(X) for _ in range(plan.slots - 1))]
    return reference.step(plan.rows[row], slots, outputs, noises)[0][0]


def outputs(count: int) -> list[np.ndarray]:
    return [RNG.normal(size=X.shape) for _ in range(count)]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("schedule", [VE, VP], ids=["ve", "vp"])
def test_cfg_pp_renoises_with_the_unconditional_output(
    schedule: Any, name: str, prediction: str
) -> None:
    """``x' = alpha' x0_w + sigma' e_u`` (arXiv 2406.08070, algorithm 2)."""
    plan = solver.plan(name, schedule=schedule, prediction=prediction)
    scale = 0.6
    guided = plan.with_guidance(guidance.cfg_pp(scale).weights(plan))
    for i, row in enumerate(plan.rows):
        c, u = outputs(2)
        x0_c, x0_u = converted(row, c), converted(row, u)
        wanted = row.next_alpha * (scale * x0_c + (1 - scale) * x0_u)
        wanted += row.next_sigma * noise_of(row, x0_u)
        np.testing.assert_allclose(after(guided, i, [c, u]), wanted, rtol=1e-12, atol=1e-12)


def test_cfg_pp_ancestral_goes_down_to_sigma_down() -> None:
    """``x' = D_w + (x - D_u) sigma_down / sigma + sigma_up z``."""
    plan = solver.plan("euler_ancestral", schedule=VE, prediction="x0")
    guided = plan.with_guidance(guidance.cfg_pp(0.3).weights(plan))
    for i, row in enumerate(plan.rows):
        up = row.next_sigma * np.sqrt(1 - (row.next_sigma / row.sigma) ** 2)
        down = np.sqrt(row.next_sigma**2 - up**2)
        (c, u), z = outputs(2), RNG.normal(size=X.shape)
        wanted = 0.3 * c + 0.7 * u + (X - u) * down / row.sigma + up * z
        got = after(guided, i, [c, u], [z] * row.n_noises)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_cfg_pp_of_a_flow() -> None:
    plan = solver.plan("flow_euler", schedule=FLOW, steps=5, prediction="flow")
    guided = plan.with_guidance(guidance.cfg_pp(0.5).weights(plan))
    for i, row in enumerate(plan.rows):
        c, u = outputs(2)  # noise - x0
        clean = [X - row.sigma * v for v in (c, u)]
        noise = X + row.alpha * u
        wanted = row.next_alpha * 0.5 * (clean[0] + clean[1]) + row.next_sigma * noise
        np.testing.assert_allclose(after(guided, i, [c, u]), wanted, rtol=1e-12, atol=1e-12)


def test_cfg_pp_of_1_is_not_conditional_alone() -> None:
    """Unlike classifier-free guidance: the noise still comes from the unconditional output."""
    plan = solver.plan("ddim", schedule=VP)
    weights = guidance.cfg_pp(1.0).weights(plan)
    assert (weights[:-1, 0] > 1.0).all()
    assert np.allclose(weights.sum(1), 1.0)


def test_compose_and_instruct() -> None:
    c, i, u = outputs(3)
    weights = guidance.compose([5.0, -2.0]).weights(solver.plan("euler", schedule=VE))[0]
    got = weights[0] * c + weights[1] * i + weights[2] * u
    np.testing.assert_allclose(got, u + 5.0 * (c - u) - 2.0 * (i - u))
    weights = guidance.instruct(7.0, 1.5).weights(solver.plan("euler", schedule=VE))[0]
    got = weights[0] * c + weights[1] * i + weights[2] * u
    np.testing.assert_allclose(got, u + 1.5 * (i - u) + 7.0 * (c - i))


def test_an_interval_leaves_the_first_output() -> None:
    plan = solver.plan("euler", schedule=VE)
    for made in (
        guidance.compose([5.0, -2.0], interval=(0.5, 3.0)),
        guidance.apg(5.0, interval=(0.5, 3.0)),
        guidance.classifier(2.0, interval=(0.5, 3.0)),
    ):
        weights = made.weights(plan)
        alone = np.zeros(weights.shape[1])
        alone[0] = 1.0
        inside = [False, True, True, False]
        assert [not np.array_equal(row, alone) for row in weights] == inside


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [VE, VP], ids=["ve", "vp"])
def test_classifier_moves_the_noise(schedule: Any, prediction: str) -> None:
    """``e' = e - strength sigma grad`` (arXiv 2105.05233, algorithm 2), for any prediction."""
    plan = solver.plan("ddim", schedule=schedule, prediction=prediction)
    for scale in (1.0, 4.0):
        made = guidance.classifier(0.7, scale=scale)
        guided = plan.with_guidance(made.weights(plan))
        for i, row in enumerate(plan.rows):
            *models, gradient = outputs(made.n)
            x0 = [converted(row, m) for m in models]
            x0_w = x0[0] if scale == 1.0 else scale * x0[0] + (1 - scale) * x0[1]
            noise = noise_of(row, x0_w) - 0.7 * row.sigma * gradient
            clean = (X - row.sigma * noise) / row.alpha
            wanted = row.next_alpha * clean + row.next_sigma * noise
            got = after(guided, i, [*models, gradient])
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [VE, VP], ids=["ve", "vp"])
def test_epsilon_scaled_divides_the_noise(schedule: Any, prediction: str) -> None:
    """Arxiv 2308.15321, eq. 15: the step with ``e / f`` in the place of e."""
    plan = solver.plan("ddim", schedule=schedule, prediction=prediction)
    factors = [1.0, 1.01, 1.1, 0.9]
    scaled = guidance.epsilon_scaled(plan, factors)
    for i, (row, factor) in enumerate(zip(plan.rows, factors, strict=True)):
        (output,) = outputs(1)
        noise = noise_of(row, converted(row, output)) / factor
        clean = (X - row.sigma * noise) / row.alpha
        wanted = row.next_alpha * clean + row.next_sigma * noise
        np.testing.assert_allclose(after(scaled, i, [output]), wanted, rtol=1e-12, atol=1e-12)


def test_epsilon_scaled_of_raw_outputs() -> None:
    """Rows that read the output itself, as flow solvers' do."""
    plan = solver.plan("flow_euler", schedule=FLOW, steps=4, prediction="flow")
    rows = []
    for row in plan.rows:
        step = (1.0, row.next_sigma - row.sigma)
        rows.append(row.replace(input=(0, 16), a=(step,) * row.n_outputs))
    raw = solver.Plan.from_rows(rows)
    scaled = guidance.epsilon_scaled(raw, 1.05)
    for i, row in enumerate(raw.rows):
        (v,) = outputs(1)
        np.testing.assert_allclose(
            after(raw, i, [v]), X + (row.next_sigma - row.sigma) * v, atol=1e-12
        )
        if row.alpha == 0.0:
            continue
        noise = (X + row.alpha * v) / 1.05
        clean = (X - row.sigma * noise) / row.alpha
        wanted = row.next_alpha * clean + row.next_sigma * noise
        np.testing.assert_allclose(after(scaled, i, [v]), wanted, rtol=1e-12, atol=1e-12)


def test_epsilon_scaled_errors() -> None:
    plan = solver.plan("ddim", schedule=VP)
    with pytest.raises(ValueError, match="must hold 4 numbers, one per row, got 2"):
        guidance.epsilon_scaled(plan, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"'factor' must be finite and above 0, got 0\.0"):
        guidance.epsilon_scaled(plan, 0.0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_prediction_plan_writes_the_clean_sample(worker: Any, prediction: str) -> None:
    plan = solver.plan("ddim", schedule=VP, prediction=prediction, clip=0.1)
    plan = plan.with_guidance([3.0, -2.0])
    looks = guidance.prediction_plan(plan)
    c, u = outputs(2)
    for i, row in enumerate(plan.rows):
        state = np.stack([X, np.zeros_like(X)]).astype(np.float32)
        fields = {k: v for k, v in looks.rows[i].to_dict().items() if k[:2] != "n_"}
        got = worker.step(rows=[fields], row=0, state=state, models=[c, u])["state"]
        wanted = converted(row, 3.0 * c - 2.0 * u)
        np.testing.assert_allclose(got[1], wanted, rtol=1e-5, atol=1e-5)
        assert np.array_equal(got[0], state[0])


def test_shifted_times_are_those_of_the_variance() -> None:
    """Arxiv 2305.15583, algorithm 2: the nearest variance within the window."""
    torch = pytest.importorskip("torch")
    times = np.arange(1000.0)
    variances = 1.0 - np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    x = (RNG.normal(size=(6, 4000)) * np.linspace(0.6, 1.0, 6)[:, None]).astype(np.float32)
    gram = solver.gram(x)
    for time, window, cutoff in ((400.0, 100.0, 0.0), (500.0, 1e6, 0.0), (300.0, 50.0, 300.0)):
        got = guidance.shifted_times(gram, time, times, variances, window=window, cutoff=cutoff)
        for b, sample in enumerate(x):
            near = times[np.abs(times - time) <= window / 2]
            gap = np.abs(variances[near.astype(int)] - sample.astype(float).var(ddof=1))
            assert got[b] == (time if time <= cutoff else near[gap.argmin()])
        tensor = guidance.shifted_times(
            torch.from_numpy(gram), time, times, variances, window=window, cutoff=cutoff
        )
        assert np.array_equal(tensor.numpy(), got)
    nan = solver.gram(np.full((1, 4), np.nan, np.float32))
    assert guidance.shifted_times(nan, 5.0, times, variances, window=4.0) == 5.0


def test_guidance_says_what_it_needs() -> None:
    assert not guidance.cfg(2.0).needs_gram
    with pytest.raises(TypeError, match="Guidance: 'needs_gram' must be True, got False"):
        guidance.cfg(2.0).weigh(np.zeros((1, 3, 3)), None)
    made = guidance.cfg_zero_star(4.0, zero_init=2)
    plan = solver.plan("flow_euler", schedule=FLOW, steps=4, prediction="flow")
    gram = fewstep.solver.gram(np.full((2, 4), np.nan, np.float32), split=2)
    assert (made.weigh(gram, plan.rows[1]) == 0.0).all()
    assert np.isnan(made.weigh(gram, plan.rows[2])).any()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_sampler_shifts_times(kind: str) -> None:
    """The loop of arXiv 2305.15583, algorithm 2, for plans that differ from sample to sample."""
    nodes = schedules.vp_linear().nodes(200)
    shift = guidance.TimeShift(nodes.t, nodes.sigma**2, window=90, cutoff=250)
    plans = [solver.plan("ddim", schedule=schedules.vp_linear(), steps=n) for n in (6, 9)]
    seen: list[np.ndarray] = []

    def model(x: Any, t: Any) -> Any:
        seen.append(np.asarray(t).copy())
        return 0.8 * x

    options = {"device": "cpu"} if kind == "torch" else {}
    sampler = fewstep.Sampler(plans, time_shift=shift)
    got = sampler(model, shape=(2, 400), seeds=[1, 2], trajectory=True, **options)[1]
    moved = 0
    for number, (plan, b) in enumerate(zip(plans, (0, 1), strict=True)):
        for turn, row in enumerate(plan.rows):
            wanted = row.t
            if turn and row.t > 250:
                variance = np.asarray(got[turn][b], np.float64).var(ddof=1)
                near = np.abs(nodes.t - row.t) <= 45
                distance = np.where(near, np.abs(variance - nodes.sigma**2), np.inf)
                wanted = nodes.t[distance.argmin()]
                moved += wanted != row.t
            assert seen[turn][number] == np.float32(wanted)
    assert moved > 4


def test_time_shift_refuses() -> None:
    for arguments, message in (
        (([1.0], [[2.0]], 3.0), r"'variances' must be a row of finite numbers, got shape \[1, 1\]"),
        (([1.0], [2.0, 3.0], 3.0), "'variances' must have 1 numbers like 'times', got 2"),
        (([1.0], [2.0], 0.0), "'window' must be above 0, got 0.0"),
    ):
        with pytest.raises(ValueError, match=f"^TimeShift: {message}$"):
            guidance.TimeShift(*arguments)
