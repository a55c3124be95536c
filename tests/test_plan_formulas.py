# SPDX-License-Identifier: Apache-2.0
"""Rows against formulas written out by hand from the papers, and against adaptive quadrature."""

from __future__ import annotations

import itertools
from math import exp, expm1, hypot, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from fewstep import schedules
from fewstep.solver import Plan, Row, plan

GUIDED = 16
LAM = np.array([-3.0, -2.1, -0.9, 0.2, 1.7])
NODES = schedules.sigmas(np.exp(-LAM))


def coefficients(row: Row) -> dict[int, float]:
    """Coefficients of slot 0 after the row, by operand."""
    return dict(zip(row.input, row.a[0], strict=True))


def row_of(name: str, i: int, **options: Any) -> Row:
    return plan(name, schedule=NODES, prediction="x0", lower_order_final=False, **options).rows[i]


def test_dpmpp_2m_midpoint() -> None:
    """Lu et al. 2022, algorithm 2: D = (1 + 1 / 2r) x0 - 1 / 2r x0_previous."""
    h, r = LAM[3] - LAM[2], (LAM[2] - LAM[1]) / (LAM[3] - LAM[2])
    got = coefficients(row_of("dpmpp_2m", 2))
    assert got[0] == pytest.approx(exp(-LAM[3]) / exp(-LAM[2]), rel=1e-14)
    assert got[GUIDED] == pytest.approx(-expm1(-h) * (1 + 0.5 / r), rel=1e-13)
    assert got[1] == pytest.approx(expm1(-h) * 0.5 / r, rel=1e-13)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_dpmpp_2m_sde_heun(eta: float) -> None:
    """k-diffusion's sample_dpmpp_2m_sde, solver_type heun, where tau^2 is its eta."""
    h = LAM[3] - LAM[2]
    g, r = h * (1 + eta), (LAM[2] - LAM[1]) / h
    slope = (expm1(-g) / g + 1) / r  # of the difference of the two x0
    row = row_of("dpmpp_2m_sde", 2, eta=eta, variant="heun")
    got, sigma = coefficients(row), exp(-LAM[3])
    assert got[0] == pytest.approx(exp(-h) * exp(-eta * h), rel=1e-13)
    assert got[GUIDED] == pytest.approx(-expm1(-g) + slope, rel=1e-13)
    assert got[1] == pytest.approx(-slope, rel=1e-13)
    assert row.noise[0][0] == pytest.approx(sigma * sqrt(-expm1(-2 * h * eta)), rel=1e-13)


def test_dpmpp_3m_parity_is_k_diffusion() -> None:
    """k-diffusion's sample_dpmpp_3m_sde at eta = 0, and twice its phi_3 for the method itself."""
    h, h0, h1 = LAM[3] - LAM[2], LAM[2] - LAM[1], LAM[1] - LAM[0]
    r0, r1 = h0 / h, h1 / h
    phi2 = expm1(-h) / h + 1
    phi3 = phi2 / h - 0.5

    def expected(factor: float) -> list[float]:
        out = []
        for m0, m1, m2 in np.eye(3):
            d1_0, d1_1 = (m0 - m1) / r0, (m1 - m2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            d2 = (d1_0 - d1_1) / (r0 + r1)
            out.append(-expm1(-h) * m0 + phi2 * d1 - factor * phi3 * d2)
        return out

    for parity, factor in (("k-diffusion", 1.0), (None, 2.0)):
        got = coefficients(row_of("dpmpp_3m", 2, parity=parity))
        # The row writes m_2 over m_0, so slot 1 holds m_0 and slot 2 holds m_1.
        assert [got[GUIDED], got[2], got[1]] == pytest.approx(expected(factor), rel=1e-12)


def test_ancestral_step() -> None:
    """k-diffusion's get_ancestral_step."""
    eta = 0.6
    s, t = exp(-LAM[2]), exp(-LAM[3])
    up = min(t, eta * sqrt(t**2 * (s**2 - t**2) / s**2))
    down = sqrt(t**2 - up**2)
    row = row_of("euler_ancestral", 2, eta=eta)
    got = coefficients(row)
    assert (got[0], got[GUIDED], row.noise[0][0]) == pytest.approx((down / s, 1 - down / s, up))
    assert row_of("euler_ancestral", 2, eta=eta, s_noise=1.5).noise[0][0] == pytest.approx(1.5 * up)


def test_edm_preconditioning() -> None:
    """Karras et al. 2022, table 1, on every process."""
    data, rho = 0.6, exp(-LAM[1])
    for process, alpha in (("ve", 1.0), ("vp", 1 / hypot(1, rho)), ("flow", 1 / (1 + rho))):
        values = np.exp(-LAM)
        nodes = values / (1 + values) if process == "flow" else values
        schedule = schedules.sigmas(nodes, process=process)  # type: ignore[arg-type]
        row = plan("ddim", schedule=schedule, prediction="edm", sigma_data=data).rows[1]
        assert row.p == pytest.approx(data**2 / (rho**2 + data**2) / alpha)
        assert row.q == pytest.approx(rho * data / hypot(rho, data))
        assert row.scale == pytest.approx(1 / hypot(rho, data) / alpha)


def test_rho_weights_are_adams_bashforth_on_a_uniform_grid() -> None:
    """55/24, -59/24, 37/24, -9/24; and a polynomial in rho may end at sigma = 0."""
    schedule = schedules.sigmas([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    made = plan("deis", schedule=schedule, order=4, variant="rho", lower_order_final=False)
    for i, slots in ((3, (1 + 2 % 3, 1 + 1 % 3, 1)), (5, (2, 1, 3))):
        got = coefficients(made.rows[i])
        weights = [got[GUIDED], *(got[s] for s in slots)]
        assert weights == pytest.approx([-55 / 24, 59 / 24, -37 / 24, 9 / 24], rel=1e-13)


def test_time_weights_integrate_over_the_training_grid() -> None:
    """DEIS tAB: Lagrange polynomials in the model time of a discrete-time model."""
    grid = schedules.scaled_linear().nodes(1000)
    steps, lam = grid.t[:-1][::-1], grid.lam[:-1][::-1]  # increasing time
    schedule = schedules.scaled_linear(spacing="trailing")
    made = plan("deis", steps=20, schedule=schedule, order=3, variant="time")
    nodes = schedule.nodes(20)
    i = 7
    t, (a, b) = nodes.t[[i, i - 1, i - 2]], (nodes.lam[i], nodes.lam[i + 1])
    inner = [x for x in lam if a < x < b]

    def weight(j: int) -> float:
        def integrand(u: float) -> float:
            time = float(np.interp(-u, -lam, steps))
            value = np.prod([(time - t[k]) / (t[j] - t[k]) for k in range(3) if k != j])
            return -nodes.sigma[i + 1] * exp(nodes.lam[i + 1] - u) * float(value)

        ends = [a, *sorted(inner), b]
        return sum(quad(integrand, x, y)[0] for x, y in itertools.pairwise(ends))

    got = coefficients(made.rows[i])
    ring = [1 + (i - 1) % 2, 1 + (i - 2) % 2]
    expected = [weight(j) for j in range(3)]
    assert [got[GUIDED], got[ring[0]], got[ring[1]]] == pytest.approx(expected, rel=1e-10)


def test_first_step_without_signal_and_last_without_noise() -> None:
    """Rectified flow from pure noise to data: no coefficient is infinite, the ends are exact."""
    for name in ("dpmpp_2m", "dpmpp_3m", "unipc", "deis", "dpmpp_2m_sde", "flow_euler", "lcm"):
        made = plan(name, steps=6, schedule=schedules.flow(3.0), prediction="flow")
        first, last = made.rows[0], made.rows[-1]
        assert (first.alpha, first.sigma) == (0.0, 1.0)
        assert coefficients(last) == {0: 1.0, GUIDED: -last.sigma}
        assert all(np.isfinite(row.a).all() for row in made.rows)


@given(
    lam=st.lists(st.floats(0.05, 2.0), min_size=4, max_size=12),
    process=st.sampled_from(["ve", "vp", "flow"]),
    name=st.sampled_from(["dpmpp_3m", "unipc", "deis", "dpmpp_2m_sde", "heun", "ddim"]),
    zero=st.booleans(),
)
@settings(max_examples=60)
def test_any_grid_validates(lam: list[float], process: Any, name: str, zero: bool) -> None:
    rho = np.exp(2.5 - np.cumsum(lam))
    values = (rho / (1 + rho) if process == "flow" else rho).tolist() + [0.0] * zero
    options = {"variant": "heun"} if name == "dpmpp_2m_sde" else {}
    schedule = schedules.sigmas(values, process=process)
    assert plan(name, schedule=schedule, lower_order_final=False, **options).validate() < 1e-9


@given(data=st.data())
@settings(max_examples=300)
def test_broken_json_is_refused_or_read(data: Any) -> None:
    """Cutting, repeating or replacing bytes never does more than raise ValueError."""
    text = plan("dpmpp_2m", schedule=NODES).to_json()
    at = data.draw(st.integers(0, len(text) - 1))
    width = data.draw(st.integers(0, 4))
    insert = data.draw(st.sampled_from(["", "0", "-", "1e5", '"', "[", "]", "{", "}", ",", "\\u"]))
    message = "fewstep_plan_from_json: '"  # of a text that happens to be right
    try:
        Plan.from_json(text[:at] + insert + text[at + width :])
    except ValueError as error:
        message = str(error)
    assert message.startswith("fewstep_plan_from_json: '")
