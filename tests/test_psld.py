# SPDX-License-Identifier: Apache-2.0
"""Phase-space integrators on Gaussian data, where the network is known exactly."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from fewstep import psld
from reference import solver as reference

PROCESS = psld.Process(eps=0.0)
LINEAR = psld.Process(beta_min=0.5, beta_max=14.0, gamma=0.2, nu=3.0, eps=0.0)
MU, VARIANCE = 0.4, 0.3
START = np.array([[0.8, -1.1, 0.2], [0.3, 0.4, -0.6]])
T_END = 0.05


def eps(process: psld.Process, z: np.ndarray, t: float) -> np.ndarray:
    """The noise a perfect network tells: -L^T times the score of the marginal."""
    phi = process.mean(t)
    spread = process.covariance(t) + phi @ np.diag([VARIANCE, 0.0]) @ phi.T
    score = -np.linalg.solve(spread, z - phi @ np.array([[MU], [0.0]]))
    return -np.linalg.cholesky(process.covariance(t)).T @ score


def rate(process: psld.Process, t: float) -> float:
    return process.beta_min + t * (process.beta_max - process.beta_min)


@cache
def truth(process: psld.Process) -> np.ndarray:
    """The probability flow from time 1 to T_END."""

    def slope(t: float, z: np.ndarray) -> np.ndarray:
        z = z.reshape(2, -1)
        flow = 0.5 * process.drift @ z + process.score_factor(t) @ eps(process, z, t)
        return (rate(process, t) * flow).ravel()

    end = solve_ivp(slope, (1.0, T_END), START.ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return end.y[:, -1].reshape(2, -1)


def run(process: psld.Process, made: Any, network: Any = eps) -> np.ndarray:
    z = [row.copy() for row in START]
    for row in made.rows[1:]:
        told = network(process, np.array(z), row.t)
        z, _ = reference.step(row, z, [told[0], told[1]])
    return np.array(z)


@pytest.mark.parametrize("process", [PROCESS, LINEAR], ids=["constant", "linear"])
def test_marginals_solve_their_equations(process: psld.Process) -> None:
    """Mean and covariance against the matrix exponential and the Lyapunov equation."""
    for t in (0.01, 0.3, 1.0):
        b = process.clock(t)
        assert process.mean(t) == pytest.approx(expm(0.5 * b * process.drift), rel=1e-11, abs=1e-13)

        def slope(s: float, flat: np.ndarray) -> np.ndarray:
            sigma, k = flat.reshape(2, 2), 0.5 * process.drift
            return (rate(process, s) * (k @ sigma + sigma @ k.T + process.diffusion)).ravel()

        begin = np.diag([0.0, process.kappa * process.mass]).ravel()
        want = solve_ivp(slope, (0, t), begin, method="DOP853", rtol=1e-12, atol=1e-15).y[:, -1]
        assert process.covariance(t).ravel() == pytest.approx(want, rel=1e-9, abs=1e-12)


ORDERS = [
    ("euler", {}, 1),
    ("conjugate", {}, 1),
    ("conjugate", {"drift": 0.2}, 1),
    ("conjugate", {"drift": [[0.1, 0.2], [0.0, -0.1]]}, 1),
    ("nse", {}, 1),
    ("rse", {}, 1),
    ("nvv", {}, 1),
    ("rvv", {}, 1),
]


@pytest.mark.parametrize("process", [PROCESS, LINEAR], ids=["constant", "linear"])
@pytest.mark.parametrize(("name", "options", "order"), ORDERS)
def test_order(name: str, options: dict[str, Any], order: int, process: psld.Process) -> None:
    steps, errors = (100, 200, 400), []
    for n in steps:
        made = psld.plan(name, process=process, times=np.linspace(1.0, T_END, n + 1),
                         denoise=False, **options)  # fmt: skip
        errors.append(float(np.abs(run(process, made) - truth(process)).max()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope >= order - 0.2, f"{slope:.2f} from {errors}"
    assert errors[-1] < 0.1


@pytest.mark.parametrize("process", [PROCESS, LINEAR], ids=["constant", "linear"])
def test_conjugate_is_exact_for_constant_noise(process: psld.Process) -> None:
    """Without drift any number of steps solves z' = K z / 2 + D L^-T eps / 2 for a fixed eps."""
    fixed = np.array([[0.3, -0.2, 0.9], [1.1, 0.5, -0.4]])

    def slope(t: float, z: np.ndarray) -> np.ndarray:
        z = z.reshape(2, -1)
        flow = 0.5 * process.drift @ z + process.score_factor(t) @ fixed
        return (rate(process, t) * flow).ravel()

    want = solve_ivp(slope, (1.0, 1e-3), START.ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    for n in (1, 3):
        made = psld.plan("conjugate", process=process, steps=n, denoise=False)
        got = run(process, made, lambda *_: fixed)
        assert got.ravel() == pytest.approx(want.y[:, -1], rel=1e-8, abs=1e-9)


def test_reduced_splittings_use_one_score_for_two_moves() -> None:
    """Against the moves written out."""
    t, after = 0.6, 0.5
    h = PROCESS.clock(after) - PROCESS.clock(t)

    def moved(z: np.ndarray, told: np.ndarray, s: float, h: float, r: int) -> np.ndarray:
        z = z.copy()
        z[r] += h * (0.5 * PROCESS.drift @ z + PROCESS.score_factor(s) @ told)[r]
        return z

    first = eps(PROCESS, START, t)
    se = moved(moved(START, first, t, h, 0), first, t, h, 1)
    half = moved(moved(START, first, t, h / 2, 1), first, t, h, 0)
    vv = moved(half, eps(PROCESS, half, after), after, h / 2, 1)
    x = moved(START, first, t, h, 0)
    nse = moved(x, eps(PROCESS, x, t), t, h, 1)
    half = moved(START, first, t, h / 2, 1)
    x = moved(half, eps(PROCESS, half, t), t, h, 0)
    nvv = moved(x, eps(PROCESS, x, after), after, h / 2, 1)
    for name, want, calls in (("rse", se, 1), ("rvv", vv, 2), ("nse", nse, 2), ("nvv", nvv, 3)):
        made = psld.plan(name, process=PROCESS, times=[t, after], denoise=False)
        assert made.calls == calls
        assert run(PROCESS, made) == pytest.approx(want, rel=1e-12)
        assert made.validate() < 1e-12


def moments(process: psld.Process, made: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z at the plan's end, exactly, on Gaussian data."""
    size = 1 + 2 * len(made.rows)  # 1, and every row's two draws
    z = [np.zeros(size), np.zeros(size)]
    one = np.eye(size)[0]
    for i, row in enumerate(made.rows):
        xi = [np.eye(size)[1 + 2 * i + k] for k in range(row.n_noises)]
        told: Any = []
        if row.evaluates:
            shift = process.mean(row.t) @ np.array([MU, 0.0])
            away = np.stack(z) - np.outer(shift, one)
            phi = process.mean(row.t)
            spread = process.covariance(row.t) + phi @ np.diag([VARIANCE, 0.0]) @ phi.T
            factor = np.linalg.cholesky(process.covariance(row.t))
            told = list(factor.T @ np.linalg.solve(spread, away))
        z, _ = reference.step(row, z, told, xi)
    both = np.stack(z)
    return both[:, 0], both[:, 1:] @ both[:, 1:].T


@pytest.mark.parametrize("process", [PROCESS, LINEAR], ids=["constant", "linear"])
def test_stochastic_integrators_converge_weakly(process: psld.Process) -> None:
    phi = process.mean(T_END)
    want = process.covariance(T_END) + phi @ np.diag([VARIANCE, 0.0]) @ phi.T
    last = {}
    for name in ("em", "sscs"):
        errors = []
        for n in (50, 100, 200):
            made = psld.plan(name, process=process, times=np.linspace(1.0, T_END, n + 1),
                             denoise=False)  # fmt: skip
            assert made.calls == n
            mean, spread = moments(process, made)
            errors.append(max(np.abs(spread - want).max(), np.abs(mean - phi[:, 0] * MU).max()))
        slope = -np.polyfit(np.log([50, 100, 200]), np.log(errors), 1)[0]
        assert slope > 0.8, f"{slope:.2f} from {errors}"
        last[name] = errors[-1]
    assert last["sscs"] < last["em"]
    assert last["em"] < 0.2


def test_samples_have_the_data_s_distribution() -> None:
    def network(x: np.ndarray, m: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        told = eps(PROCESS, np.stack([x.ravel(), m.ravel()]).astype(np.float64), float(t[0]))
        return told[0].reshape(x.shape), told[1].reshape(x.shape)

    made = psld.plan("rvv", process=PROCESS, times=np.geomspace(1.0, 1e-3, 161))
    x, _ = psld.sample(network, made, (4, 5000))
    # The last call returns the mean of x_0, which at time 1e-3 is x_0 but for a little spread.
    assert x.mean() == pytest.approx(MU, abs=0.02)
    assert x.var() == pytest.approx(VARIANCE, rel=0.04)
    alone, _ = psld.sample(network, made, (1, 5000), seeds=[2])
    assert alone[0].tobytes() == x[2].tobytes()


def test_errors() -> None:
    for options, message in (
        (
            {"name": "vv", "steps": 4},
            "'name' must be one of euler, conjugate, nse, rse, nvv, rvv, em, s",
        ),
        ({"name": "rse"}, "'steps' must be given without 'times'"),
        ({"name": "rse", "steps": 0}, "'steps' must be at least 1, got 0"),
        ({"name": "rse", "times": [0.5, 0.6]}, "'times' must decrease from at most 1"),
        ({"name": "rse", "steps": 3, "drift": 1.0}, "'drift' must be left out for rse, got 1.0"),
        ({"name": "conjugate", "steps": 3, "drift": [1.0]}, "'drift' must be a number or a 2 x 2"),
    ):
        with pytest.raises(ValueError, match=message):
            psld.plan(**options)
    with pytest.raises(ValueError, match="'nu' must differ from gamma"):
        psld.Process(gamma=1.0, nu=1.0)
