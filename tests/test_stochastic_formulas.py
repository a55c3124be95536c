# SPDX-License-Identifier: Apache-2.0
"""Rows of stochastic and few-step solvers against formulas written out by hand."""

from __future__ import annotations

from math import exp, expm1, log, sqrt
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from fewstep import schedules
from fewstep.solver import Row, plan

GUIDED = 16
LAM = np.array([-3.0, -2.1, -0.9, 0.2, 1.7])
SIGMA = np.exp(-LAM)
NODES = schedules.sigmas(SIGMA)


def coefficients(row: Row, output: int = 0) -> dict[int, float]:
    return {k: v for k, v in zip(row.input, row.a[output], strict=True) if v != 0.0}


def rows_of(name: str, step: int, **options: Any) -> list[Row]:
    made = plan(name, schedule=NODES, prediction="x0", lower_order_final=False, **options)
    return [row for row in made.rows if row.step == step]


def ancestral(s: float, t: float, eta: float) -> tuple[float, float]:
    """k-diffusion's get_ancestral_step: sigma_down, sigma_up."""
    up = min(t, eta * sqrt(t**2 * (s**2 - t**2) / s**2))
    return sqrt(t**2 - up**2), up


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_dpmpp_2s_ancestral(eta: float) -> None:
    """k-diffusion's sample_dpmpp_2s_ancestral."""
    s, t = SIGMA[2], SIGMA[3]
    down, up = ancestral(s, t, eta)
    h = log(s / down)
    first, second = rows_of("dpmpp_2s_ancestral", 2, eta=eta)
    middle = s * exp(-h / 2)
    assert first.next_sigma == pytest.approx(middle)
    assert coefficients(first) == pytest.approx({0: middle / s, GUIDED: -expm1(-h / 2)})
    got = coefficients(second)
    assert got[GUIDED] == pytest.approx(-expm1(-h))
    assert got[1] == 1.0
    assert coefficients(first, 1) == pytest.approx({0: down / s})
    assert second.noise[0][0] == pytest.approx(up)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_dpm2_ancestral(eta: float) -> None:
    """k-diffusion's sample_dpm_2_ancestral, in terms of the noise."""
    s, t = SIGMA[2], SIGMA[3]
    down, up = ancestral(s, t, eta)
    middle = exp((log(s) + log(down)) / 2)
    made = plan("dpm2_ancestral", schedule=NODES, eta=eta)
    first, second = (row for row in made.rows if row.step == 2)
    assert coefficients(first) == pytest.approx({0: 1.0, GUIDED: middle - s})
    assert coefficients(second) == pytest.approx({1: 1.0, GUIDED: down - s})
    assert coefficients(first, 1) == {0: 1.0}
    assert second.noise[0][0] == pytest.approx(up)


@pytest.mark.parametrize("parity", [None, "k-diffusion"])
def test_dpmpp_3m_sde(parity: str | None) -> None:
    """k-diffusion's sample_dpmpp_3m_sde; the method itself has twice its phi_3."""
    eta = 0.7
    h, h0, h1 = LAM[3] - LAM[2], LAM[2] - LAM[1], LAM[1] - LAM[0]
    r0, r1, g = h0 / h, h1 / h, h * (1 + eta)
    phi2 = expm1(-g) / g + 1
    phi3 = phi2 / g - 0.5
    expected = []
    for m0, m1, m2 in np.eye(3):
        d1_0, d1_1 = (m0 - m1) / r0, (m1 - m2) / r1
        d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
        d2 = (d1_0 - d1_1) / (r0 + r1)
        expected.append(-expm1(-g) * m0 + phi2 * d1 - (1 if parity else 2) * phi3 * d2)
    (row,) = rows_of("dpmpp_3m_sde", 2, eta=eta, parity=parity)
    got = coefficients(row)
    assert got[0] == pytest.approx(exp(-h - eta * h), rel=1e-12)
    assert [got[GUIDED], got[2], got[1]] == pytest.approx(expected, rel=1e-11)
    noise = SIGMA[3] * sqrt(-expm1(-2 * h * eta))
    assert row.noise[0][0] == pytest.approx(noise, rel=1e-12)


def test_seeds_3() -> None:
    """Gonzalez et al. 2023: stages at 1/3 and 2/3, the noise of each third carried on."""
    eta = 0.8
    h, k = LAM[3] - LAM[2], 1 + eta
    rows = rows_of("seeds", 2, order=3, eta=eta)
    sigma = [SIGMA[2] * exp(-c * h) for c in (0, 1 / 3, 2 / 3, 1)]

    def carried(i: int, j: int) -> float:
        """Of the noise drawn over third i, what is left at the end of third j."""
        fresh = sigma[j + 1] * sqrt(-expm1(-2 * eta * h / 3))
        return fresh * exp(-eta * h * (j - i) / 3)

    first, second, third = rows
    whole = [-expm1(-k * c * h) for c in (1 / 3, 2 / 3, 1)]
    bend = [2 * (1 + expm1(-k * 2 / 3 * h) / (k * 2 / 3 * h)), 1.5 * (1 + expm1(-k * h) / (k * h))]
    assert coefficients(first)[0] == pytest.approx(sigma[1] / sigma[0] * exp(-eta * h / 3))
    assert coefficients(first)[GUIDED] == pytest.approx(whole[0])
    # Slot 1 gathers the second stage, slot 2 the end.
    assert coefficients(first, 1)[GUIDED] == pytest.approx(whole[1] - bend[0])
    assert coefficients(first, 2)[GUIDED] == pytest.approx(whole[2] - bend[1])
    assert coefficients(second) == pytest.approx({1: 1.0, GUIDED: bend[0]})
    assert coefficients(third) == pytest.approx({2: 1.0, GUIDED: bend[1]})
    drawn = [first.noise[r][0] for r in range(3)]
    assert drawn == pytest.approx([carried(0, j) for j in range(3)])
    assert [second.noise[0][0], second.noise[1][0]] == pytest.approx([carried(1, 1), carried(1, 2)])
    assert third.noise[0][0] == pytest.approx(carried(2, 2))


SCALES = {
    "ode": lambda x: x,
    "sde": lambda x: x**2,
    "sde_1": lambda x: x * (exp(-1 / x) + 10),
    "sde_2": lambda x: x**1.5,
    "sde_3": lambda x: x**2.5,
    "sde_4": lambda x: x**0.9 * np.log10(1 + 100 * x**1.5),
    "sde_5": lambda x: x * (exp(x**0.3) + 10),
}


@pytest.mark.parametrize("variant", SCALES)
def test_er_sde(variant: str) -> None:
    """Cui et al. 2023: x0 = 1, rho - rho_s and (rho - rho_s)^2 are integrated as they write it."""
    phi = SCALES[variant]
    s, t = SIGMA[2], SIGMA[3]
    (row,) = rows_of("er_sde", 2, variant=variant, order=3)
    got = coefficients(row)
    ratio = phi(t) / phi(s)
    assert got[0] == pytest.approx(ratio, rel=1e-12)
    noise = sqrt(max(t**2 - s**2 * ratio**2, 0))
    assert (row.noise[0][0] if row.n_noises else 0.0) == pytest.approx(noise, abs=1e-12)
    weights = np.array([got[GUIDED], got[2], got[1]])
    away = SIGMA[[2, 1, 0]] - s
    one, _ = quad(lambda x: 1 / phi(x), t, s, epsabs=0, epsrel=1e-12)
    two, _ = quad(lambda x: (x - s) / phi(x), t, s, epsabs=0, epsrel=1e-12)
    assert weights.sum() == pytest.approx(1 - ratio, rel=1e-11)
    assert weights @ away == pytest.approx(t - s + phi(t) * one, rel=1e-9)
    assert weights @ away**2 == pytest.approx((t - s) ** 2 + 2 * phi(t) * two, rel=1e-8)


def test_edm_churn_levels() -> None:
    """Karras et al. 2022, algorithm 2, lines 5 to 6; outside of the range nothing is added."""
    options = {"s_churn": 1.0, "s_tmin": 1.0, "s_tmax": 9.0, "s_noise": 1.01}
    made = plan("edm_stochastic", schedule=NODES, **options)
    raised = [row for row in made.rows if not row.evaluates]
    inside = [s for s in SIGMA[:-1] if 1.0 <= s <= 9.0]
    assert len(raised) == len(inside) == 2
    gamma = min(1.0 / 4, sqrt(2) - 1)
    for row, sigma in zip(raised, inside, strict=True):
        assert (row.sigma, row.next_sigma) == pytest.approx((sigma, sigma * (1 + gamma)))
        assert coefficients(row) == {0: 1.0}
        noise = 1.01 * sqrt(row.next_sigma**2 - sigma**2)
        assert row.noise[0][0] == pytest.approx(noise)
        assert row.next_t == row.next_sigma  # the model is told the raised level
    capped = plan("edm_stochastic", schedule=NODES, s_churn=80.0)
    assert capped.rows[0].next_sigma == pytest.approx(SIGMA[0] * sqrt(2))


def test_restart_levels() -> None:
    """Xu et al. 2023: up from the node nearest t_min by fresh noise, down on EDM's spacing."""
    low, high, steps = SIGMA[3], 5.0, 3
    made = plan("restart", schedule=NODES, intervals=[(steps, 2, 0.8, high)])
    ups = [i for i, row in enumerate(made.rows) if not row.evaluates]
    assert len(ups) == 2
    seen = set()
    for i in ups:
        row = made.rows[i]
        assert (row.sigma, row.next_sigma) == pytest.approx((low, high))
        assert row.noise[0][0] == pytest.approx(sqrt(high**2 - low**2))
        seen.add((row.noise_stream[0], row.noise_step[0]))
        inner = [r for r in made.rows[i + 1 : i + 1 + 2 * steps] if r.alpha]
        levels = [r.from_sigma for r in inner[::2]] + [inner[-1].next_sigma]
        ramp = np.linspace(high ** (1 / 7), low ** (1 / 7), steps + 1) ** 7
        assert levels == pytest.approx(ramp.tolist())
    assert len(seen) == 2  # each repeat draws its own noise
    heun = plan("heun", schedule=NODES)
    assert made.calls == heun.calls + 2 * 2 * steps


def test_ctm_jumps_then_diffuses() -> None:
    """Kim et al. 2023: s = sqrt(1 - gamma^2) (sigma - sigma_min) + sigma_min."""
    gamma, low = 0.6, 0.1
    (row,) = rows_of("ctm", 1, gamma=gamma, sigma_min=low)
    t = SIGMA[2]
    s = sqrt(1 - gamma**2) * (t - low) + low
    assert coefficients(row) == pytest.approx({0: s / SIGMA[1], GUIDED: 1 - s / SIGMA[1]})
    assert row.noise[0][0] == pytest.approx(sqrt(t**2 - s**2))


@pytest.mark.parametrize("form", ["sigma", "constant", "sbdm", "decreasing"])
def test_sit_sde(form: str) -> None:
    """Ma et al. 2024: drift v + w score and noise sqrt(2 w dt), in their time 1 - sigma."""
    sigma = np.array([0.9, 0.7, 0.4, 0.0])
    schedule = schedules.sigmas(sigma, process="flow")
    row = plan("sit_sde", schedule=schedule, prediction="flow", variant=form).rows[1]
    s, d = 0.7, 0.3
    w = {"sigma": s, "constant": 1.0, "sbdm": s / (1 - s),
         "decreasing": 0.25 * (np.cos(np.pi * (1 - s)) + 1) ** 2}[form]  # fmt: skip
    # The noise is x + (1 - sigma) v; the score -1 / sigma of it.
    assert coefficients(row) == pytest.approx({0: 1 - d * w / s, GUIDED: -d - d * w / s * (1 - s)})
    assert row.noise[0][0] == pytest.approx(sqrt(2 * w * d))
    last = plan("sit_sde", schedule=schedule, prediction="flow", variant=form).rows[-1]
    assert coefficients(last) == pytest.approx({0: 1.0, GUIDED: -0.4})


def test_predictor_corrector() -> None:
    """SGMSE+: step size 2 (snr sigma)^2, noise sqrt(2 step); without correction it is DDPM."""
    corrector, predictor = rows_of("predictor_corrector", 1, snr=0.3)
    sigma = SIGMA[1]
    size = 2 * (0.3 * sigma) ** 2
    # The score is (x0 - x) / sigma^2.
    expected = {0: 1 - size / sigma**2, GUIDED: size / sigma**2}
    assert coefficients(corrector) == pytest.approx(expected)
    assert corrector.noise[0][0] == pytest.approx(sqrt(2 * size))
    assert corrector.next_sigma == corrector.sigma
    (ddpm,) = rows_of("ddpm", 1)
    assert coefficients(predictor) == pytest.approx(coefficients(ddpm))
    assert predictor.noise == pytest.approx(np.array(ddpm.noise))
