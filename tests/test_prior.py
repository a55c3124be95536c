# SPDX-License-Identifier: Apache-2.0
"""Processes with a prior: their weights, rows against the papers' formulas, and sampling."""

from __future__ import annotations

from math import exp, expm1, sqrt
from typing import Any

import numpy as np
import pytest

from cases.plan import FLOW_ONLY
from fewstep import Sampler, noise, schedules
from fewstep.solver import SOLVERS, Plan, Row, plan

GUIDED, KNOWN = 16, 22
SCHEDULES = {
    "ou": schedules.ornstein_uhlenbeck(),
    "ou-open": schedules.ornstein_uhlenbeck(2.0, 0.1, 0.7, final_zero=False),
    "gmax": schedules.bridge("gmax"),
    "vp": schedules.bridge("vp", 0.01, 20.0),
    "reverting": schedules.mean_reverting(),
}


def coefficients(row: Row) -> dict[int, float]:
    return dict(zip(row.input, row.a[0], strict=True))


# ---- schedules ----------------------------------------------------------------------------------


def test_ornstein_uhlenbeck_is_the_solution_of_its_equation() -> None:
    """In SGMSE+ d alpha = -stiffness alpha_t dt; d sigma^2 / dt = -2 stiffness sigma^2 + g^2."""
    stiffness, low, high = 1.7, 0.06, 0.8
    log_k = np.log(high / low)
    nodes = schedules.ornstein_uhlenbeck(stiffness, low, high).nodes(7)
    t = nodes.t[:-1]
    # Equation 9 of SGMSE+.
    variance = (
        low**2 * ((high / low) ** (2 * t) - np.exp(-2 * stiffness * t)) * log_k
        / (stiffness + log_k)
    )  # fmt: skip
    assert nodes.alpha[:-1] == pytest.approx(np.exp(-stiffness * t), rel=1e-14)
    assert nodes.sigma[:-1] ** 2 == pytest.approx(variance, rel=1e-12)
    assert nodes.prior == pytest.approx(1 - nodes.alpha, abs=1e-14)


@pytest.mark.parametrize("kind", ["gmax", "vp"])
def test_bridge_weights(kind: Any) -> None:
    """Marginals of Bridge-TTS: x_t given x_0 and x_1."""
    b0, b1 = 0.02, 9.0
    nodes = schedules.bridge(kind, b0, b1).nodes(7)
    t = nodes.t[:-1]
    integral = b0 * t + (b1 - b0) * t**2 / 2
    total = (b0 + b1) / 2
    if kind == "vp":
        scale, last = np.exp(-integral / 2), exp(-total / 2)
        variance, end = np.expm1(integral), expm1(total)
    else:
        scale, last, variance, end = np.ones_like(t), 1.0, integral, total
    assert nodes.alpha[:-1] == pytest.approx(scale * (end - variance) / end, rel=1e-9)
    assert nodes.prior[:-1] == pytest.approx(scale / last * variance / end, rel=1e-12)
    sigma = scale * np.sqrt(variance * (end - variance) / end)
    assert nodes.sigma[:-1] == pytest.approx(sigma, rel=1e-9)


def test_mean_reverting_is_the_cumulative_product_of_its_steps() -> None:
    """A step moves x to y by exp(-theta_i dt) a training step; its variance reverts to sigma^2."""
    T, sigma, least = 100, 0.3, 0.01
    k = np.arange(T + 3) / (T + 2)
    level = np.cos((k + 0.008) / 1.008 * np.pi / 2) ** 2
    theta = 1 - level[1:-1] / level[0]
    dt = -np.log(least) / np.sum(theta[1:])
    nodes = schedules.mean_reverting(sigma, alpha_min=least).nodes(10)
    alpha, variance = 1.0, 0.0
    found = {int(t): i for i, t in enumerate(nodes.t)}
    for i in range(1, T + 1):
        keep = np.exp(-theta[i] * dt)
        alpha, variance = alpha * keep, keep**2 * variance + sigma**2 * (1 - keep**2)
        if i in found:
            assert nodes.alpha[found[i]] == pytest.approx(alpha, rel=1e-12)
            assert nodes.sigma[found[i]] ** 2 == pytest.approx(variance, rel=1e-12)
    assert nodes.prior == pytest.approx(1 - nodes.alpha, abs=1e-14)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_stage_between_two_nodes_has_their_process_and_time(name: str) -> None:
    """Model time and weights of a stage are those that nodes at its ratio would have."""
    schedule = SCHEDULES[name]
    made = plan("dpmpp_2s", steps=6, schedule=schedule)
    stage = made.rows[3]
    assert stage.step == 1
    fine = schedule.nodes(4000)
    lam, t = fine.lam[:-1], fine.t[:-1]
    at = np.log(stage.alpha / stage.sigma)
    assert stage.t == pytest.approx(np.interp(at, lam, t), rel=2e-3)
    assert stage.prior == pytest.approx(np.interp(at, lam, fine.prior[:-1]), rel=2e-3)


# ---- rows ---------------------------------------------------------------------------------------


def test_bridge_sde_and_ode_of_the_paper() -> None:
    """Bridge-TTS, SDE-1 and ODE-1 (propositions 3.2 and 3.3), with sigma_bar^2 = end - sigma^2."""
    b0, b1 = 0.02, 9.0
    schedule = schedules.bridge("vp", b0, b1, final_zero=False)
    nodes = schedule.nodes(5)
    i = 2
    integral = b0 * nodes.t + (b1 - b0) * nodes.t**2 / 2
    a, sigma = np.exp(-integral / 2), np.sqrt(np.expm1(integral))
    end = expm1((b0 + b1) / 2)
    bar, last = np.sqrt(end - sigma**2), exp(-(b0 + b1) / 4)
    (a_s, a_t), (s_s, s_t), (bar_s, bar_t) = (v[i : i + 2] for v in (a, sigma, bar))

    row = plan("ddpm", steps=5, schedule=schedule, prediction="x0").rows[i]
    got = coefficients(row)
    assert got[0] == pytest.approx(a_t * s_t**2 / (a_s * s_s**2), rel=1e-9)
    assert got[GUIDED] == pytest.approx(a_t * (1 - s_t**2 / s_s**2), rel=1e-9)
    assert got.get(KNOWN, 0.0) == pytest.approx(0.0, abs=1e-9)
    drawn = a_t * s_t * sqrt(1 - s_t**2 / s_s**2)
    assert row.noise[0][0] == pytest.approx(drawn, rel=1e-9)

    got = coefficients(plan("ddim", steps=5, schedule=schedule, prediction="x0").rows[i])
    assert got[0] == pytest.approx(a_t * s_t * bar_t / (a_s * s_s * bar_s), rel=1e-9)
    of_x0 = a_t / end * (bar_t**2 - bar_s * s_t * bar_t / s_s)
    assert got[GUIDED] == pytest.approx(of_x0, rel=1e-8)
    of_y = a_t / end * (s_t**2 - s_s * s_t * bar_t / bar_s) / last
    assert got[KNOWN] == pytest.approx(of_y, rel=1e-8)


def test_mean_reverting_rows_of_the_paper() -> None:
    """MRS, first order in the noise and second in the data form, ODE and SDE."""
    schedule = schedules.mean_reverting(0.4)
    nodes = schedule.nodes(8)
    i = 3
    (a_s, a_t), (s_s, s_t) = nodes.alpha[i : i + 2], nodes.sigma[i : i + 2]
    h, before = nodes.lam[i + 1] - nodes.lam[i], nodes.lam[i] - nodes.lam[i - 1]

    for name, factor, drawn in (
        ("dpm_1s", 1.0, 0.0),
        ("dpm_1m_sde", 2.0, s_t * sqrt(expm1(2 * h))),
    ):
        row = plan(name, steps=8, schedule=schedule).rows[i]
        got = coefficients(row)
        assert got[0] == pytest.approx(a_t / a_s, rel=1e-12)
        assert got[GUIDED] == pytest.approx(-factor * s_t * expm1(h), rel=1e-12)
        assert got[KNOWN] == pytest.approx(1 - a_t / a_s, rel=1e-12)
        assert (row.noise[0][0] if row.n_noises else 0.0) == pytest.approx(drawn, rel=1e-12)

    r, keep = before / h, s_t / s_s
    for name, kappa, decay in (("dpmpp_2m", 1.0, 1.0), ("dpmpp_2m_sde", 2.0, exp(-h))):
        made = plan(name, steps=8, schedule=schedule, prediction="x0", variant="heun",
                    lower_order_final=False)  # fmt: skip
        row = made.rows[i]
        got = coefficients(row)
        whole = -a_t * expm1(-kappa * h)
        slope = a_t * (expm1(-kappa * h) / (kappa * h) + 1) / r
        assert got[0] == pytest.approx(keep * decay, rel=1e-12)
        assert got[GUIDED] == pytest.approx(whole + slope, rel=1e-12)
        assert got[1] == pytest.approx(-slope, rel=1e-12)
        of_y = 1 - keep * decay + keep * decay * a_s - a_t
        assert got[KNOWN] == pytest.approx(of_y, rel=1e-12)


def test_ddpm_is_the_optimal_reverse_step_of_ir_sde() -> None:
    """Luo et al. 2023, proposition 3.2, with their A, B, C: one step's decay, alpha_s, alpha_t."""
    schedule = schedules.mean_reverting(0.2)
    nodes = schedule.nodes(100)
    i = 40
    B, C = nodes.alpha[i], nodes.alpha[i + 1]
    A = B / C
    of_x, of_x0 = A * (1 - C**2) / (1 - B**2), C * (1 - A**2) / (1 - B**2)
    got = coefficients(plan("ddpm", steps=100, schedule=schedule, prediction="x0").rows[i])
    expected = {0: of_x, GUIDED: of_x0, KNOWN: 1 - of_x - of_x0}
    assert got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("name", [n for n in SOLVERS if n not in FLOW_ONLY])
def test_every_solver_validates(name: str, kind: str) -> None:
    for steps in (1, 4, 9):
        made = plan(name, steps=steps, schedule=SCHEDULES[kind], prediction="x0")
        assert made.validate() < 1e-9
        assert made.calls >= steps


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_every_prediction_validates(prediction: str) -> None:
    for schedule in SCHEDULES.values():
        for name in ("dpmpp_3m", "unipc", "seeds", "sa", "deis", "heun"):
            made = plan(name, steps=7, schedule=schedule, prediction=prediction)
            assert made.validate() < 1e-8


def test_validate_catches_a_wrong_weight_of_the_prior() -> None:
    made = plan("dpmpp_2m", steps=6, schedule=SCHEDULES["ou"], prediction="x0")
    row = made.rows[3]
    at = row.input.index(KNOWN)
    a = [list(line) for line in row.a]
    a[0][at] *= 1 + 1e-6
    rows = list(made.rows)
    rows[3] = row.replace(a=a)
    with pytest.raises(ValueError, match=r"rows\[3\]"):
        Plan.from_rows(rows).validate()


# ---- sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m_sde", "heun", "unipc"])
def test_a_perfect_model_leads_to_its_x0(name: str, kind: str) -> None:
    y = np.linspace(-2.0, 2.0, 12, dtype=np.float32).reshape(3, 4)
    x0 = np.float32(0.3) - y
    made = plan(name, steps=8, schedule=SCHEDULES[kind], prediction="x0")
    x, path = Sampler(made)(lambda x, t: x0 + 0.0 * x, prior=y, trajectory=True, seeds=[1, 2, 3])
    last = made.rows[-1]
    margin = 4 * last.next_sigma
    assert np.abs(x - last.next_alpha * x0 - last.next_prior * y).max() <= margin + 1e-5
    first = made.rows[0]
    start = (first.alpha + first.prior) * y
    assert np.abs(path[0] - start).max() <= 4 * first.sigma + 1e-5


def test_the_marginals_have_mean_and_variance_of_the_process() -> None:
    """The SDE from y reaches each node with the marginal's moments: 40,000 samples."""
    y, x0 = 0.8, -0.4
    made = plan("ddpm", steps=6, schedule=SCHEDULES["gmax"], prediction="x0")
    prior = np.full((1, 40000), y, np.float32)
    _, path = Sampler(made)(lambda x, t: 0 * x + np.float32(x0), prior=prior, trajectory=True)
    for row, state in zip(made.rows, path[1:], strict=True):
        mean = row.next_alpha * x0 + row.next_prior * y
        assert float(state.mean()) == pytest.approx(mean, abs=5 * row.next_sigma / 200 + 1e-5)
        assert float(state.std()) == pytest.approx(row.next_sigma, rel=0.02, abs=1e-5)


def test_errors() -> None:
    bridge = plan("ddim", steps=4, schedule=SCHEDULES["gmax"], prediction="x0")
    plain = plan("ddim", steps=4, schedule=schedules.vp_linear(), prediction="x0")
    y = np.zeros((2, 3), np.float32)

    def model(x: Any, t: Any) -> Any:
        return 0 * x

    for plans, arguments, message in (
        (bridge, {"shape": (2, 3)}, "'prior' must be given for a process with a prior, got None"),
        (plain, {"prior": y}, "'prior' must be None unless the process has one, got an array"),
        (bridge, {"prior": y, "x0": y}, "'x0' must be None with 'prior', got an array"),
        ([plain, bridge], {"prior": y}, "must not mix plans with and without a prior"),
    ):
        with pytest.raises(ValueError, match=message):
            Sampler(plans)(model, **arguments)
    with pytest.raises(ValueError, match="'with_known' must be 0 for a process with a prior"):
        bridge.start(known=True)
    with pytest.raises(ValueError, match="'clip' must be left out for a process with a prior"):
        plan("ddim", steps=4, schedule=SCHEDULES["gmax"], clip=1.0)
    with pytest.raises(ValueError, match=r"'t_max' must be above 0 and at most 0\.9999, got 1"):
        schedules.bridge(t_max=1.0).nodes(4)
    with pytest.raises(ValueError, match="'at' must not be asked of bridge, got its levels"):
        schedules.bridge().at([2.0, 1.0])
    with pytest.raises(ValueError, match="'spacing' must be gmax or vp"):
        schedules.bridge("linear").nodes(4)  # type: ignore[arg-type]


# ---- another first sample -----------------------------------------------------------------------


def test_pfgmpp_prior_has_its_radius_and_direction() -> None:
    """R^2 / r^2 is beta prime of (N / 2, D / 2), r = sigma sqrt(D); the direction is uniform."""
    from scipy import stats

    n, dimensions, sigma = 12, 6, 3.0
    x = noise.pfgmpp(range(20000), (3, 4), dimensions, scale=sigma).reshape(20000, n)
    ratio = np.sum(x.astype(np.float64) ** 2, 1) / (sigma**2 * dimensions)
    assert stats.kstest(ratio, stats.betaprime(n / 2, dimensions / 2).cdf).pvalue > 1e-3
    direction = x / np.linalg.norm(x, axis=1, keepdims=True)
    # One coordinate of a uniform direction: its square is Beta(1/2, (n - 1)/2).
    square = stats.beta(0.5, (n - 1) / 2)
    assert stats.kstest(direction[:, 5] ** 2, square.cdf).pvalue > 1e-3
    assert noise.pfgmpp([5], (3, 4), dimensions).tobytes() == (
        noise.pfgmpp([4, 5], (3, 4), dimensions)[1:].tobytes()
    )
    nearly = noise.pfgmpp([5], (3, 4), 10**6)
    assert nearly == pytest.approx(noise.normal([5], (3, 4), stream=1), rel=5e-3)
    with pytest.raises(ValueError, match="'dimensions' must be at least 1, got 0"):
        noise.pfgmpp([5], (3, 4), 0)


def test_initial_samples_are_taken_as_they_are() -> None:
    made = plan("heun", steps=5, schedule=schedules.karras(0.02, 80.0), prediction="edm")
    initial = noise.pfgmpp([1, 2], (3, 4), 128, scale=80.0)
    seen: list[Any] = []

    def model(x: Any, t: Any) -> Any:
        seen.append(x.copy())
        return 0 * x

    _, path = Sampler(made)(model, initial=initial, trajectory=True)
    assert (path[0] == initial).all()
    assert seen[0] == pytest.approx(initial * made.scales[0], rel=1e-6)
    # With the start's own noise it is the plain call.
    plain = Sampler(made)(model, (2, 3, 4), seeds=[1, 2])
    given = np.float32(80.0) * noise.normal([1, 2], (3, 4), stream=1)
    assert (Sampler(made)(model, initial=given) == plain).all()
    for name in ("x0", "prior"):
        with pytest.raises(ValueError, match=f"'{name}' must be None with 'initial', got an array"):
            Sampler(made)(model, initial=initial, **{name: initial})


def test_an_interpolant_runs_from_any_other_end() -> None:
    """IADB from image to image: Euler along x1 - x0 from x1 arrives at x0."""
    x1 = np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(2, 4)
    x0 = np.float32(2.0) * x1[::-1]
    made = plan("flow_euler", steps=4, schedule=schedules.flow(), prediction="flow")
    assert Sampler(made)(lambda x, t: x1 - x0, initial=x1) == pytest.approx(x0, abs=1e-6)
