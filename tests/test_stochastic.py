# SPDX-License-Identifier: Apache-2.0
"""Stochastic solvers on Gaussian data: exact mean and variance, and how they converge.

The perfect model of Gaussian data is affine, so every slot of a plan stays a combination of 1, the
start noise and the draws: its coefficients give mean and variance without sampling.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep import schedules
from fewstep.solver import Plan, plan
from reference import solver as reference

Array = NDArray[np.float64]
MEAN, SPREAD = 0.7, 0.6  # of the data


class Gaussian:
    """Slots of a plan as coefficients of {1, start noise, draw 0, draw 1, ..}."""

    def __init__(self, made: Plan, spread: float, kind: str) -> None:
        self.made, self.spread, self.kind = made, spread, kind
        self.size = 2 + sum(row.n_noises for row in made.rows)
        self.draws: dict[tuple[int, int], int] = {}

    def basis(self, i: int) -> Array:
        return np.eye(1, self.size, i)[0]

    def model(self, x: Array, alpha: float, sigma: float) -> Array:
        """E[x0 | x] or E[noise | x]."""
        variance = alpha**2 * self.spread**2 + sigma**2
        away = x - alpha * MEAN * self.basis(0)
        x0 = MEAN * self.basis(0) + alpha * self.spread**2 / variance * away
        return x0 if self.kind == "x0" else (x - alpha * x0) / sigma

    def noise(self, stream: int, step: int) -> Array:
        if stream != 0:  # of a known image, which has no part here
            return np.zeros(self.size)
        return self.basis(2 + self.draws.setdefault((stream, step), len(self.draws)))

    def run(self) -> list[Array]:
        """Slot 0 after each row, from the exact marginal at the first node."""
        first = self.made.rows[0]
        x = first.alpha * MEAN * self.basis(0)
        x = x + np.hypot(first.alpha * self.spread, first.sigma) * self.basis(1)
        slots = [x] + [np.full(self.size, np.nan)] * (self.made.slots - 1)
        states = []
        for row in self.made.rows:
            models = [self.model(slots[0], row.alpha, row.sigma)] if row.evaluates else []
            xi = [self.noise(*key) for key in zip(row.noise_stream, row.noise_step, strict=True)]
            slots, _ = reference.step(row, slots, models, xi)
            states.append(slots[0])
        return states


def moments(state: Array) -> tuple[float, float]:
    return float(state[0]), float(np.sum(state[1:] ** 2))


SDE = [
    ("ddpm", {}),
    ("euler_ancestral", {"eta": 0.4}),
    ("ddim", {"eta": 1.0}),
    ("dpmpp_1m_sde", {"eta": 0.5}),
    ("dpmpp_2m_sde", {"variant": "heun", "eta": 0.7}),
    ("dpmpp_2m_sde", {"variant": "midpoint"}),
    ("dpmpp_3m_sde", {"eta": 0.5}),
    ("dpmpp_3m_sde", {"parity": "k-diffusion"}),
    ("dpm2_ancestral", {}),
    ("dpm2_ancestral", {"eta": 0.5}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.5}),
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"r1": 0.3, "eta": 0.7}),
    ("seeds", {"order": 2}),
    ("seeds", {"order": 2, "r1": 0.3, "eta": 0.6}),
    ("seeds", {"order": 3}),
    ("seeds", {"order": 3, "eta": 2.0}),
    *(("sa", {"order": p, "corrector_order": c}) for p in (1, 2, 3, 4) for c in (0, 1, 2, 3, 4)),
    ("sa", {"tau": 1.4, "tau_tmin": 0.05, "tau_tmax": 1.0}),
    ("sa", {"order": 2, "corrector_order": 2, "parity": "diffusers"}),
    *(("er_sde", {"order": p}) for p in (1, 2, 3)),
    *(("er_sde", {"variant": v}) for v in ("sde", "sde_1", "sde_2", "sde_3", "sde_4")),
    ("edm_stochastic", {"s_tmin": 0.05, "s_tmax": 50.0}),
    ("edm_stochastic", {"variant": "euler"}),
    ("restart", {"intervals": [(3, 2, 0.1, 5.0), (2, 1, 0.6, 20.0)]}),
]
FEW_STEP = [
    ("lcm", {}),
    ("dmd", {}),
    ("tcd", {}),
    ("tcd", {"gamma": 1.0}),
    ("ctm", {"gamma": 0.5, "sigma_min": 0.02}),
    ("ctm", {"gamma": 1.0}),
    ("consistency", {"sigma_min": 0.0}),
]


def name_of(entry: Any) -> str:
    return "-".join([entry[0], *map(str, entry[1].values())])


@pytest.mark.parametrize("entry", SDE + FEW_STEP, ids=name_of)
def test_variance_is_that_of_the_marginals_when_x0_is_known(entry: Any) -> None:
    """For one x0 every row, stages too, ends at mean alpha x0 and variance sigma^2 exactly."""
    name, options = entry
    for schedule in (schedules.vp_linear(spacing="trailing"), schedules.karras(0.02, 80.0)):
        made = plan(name, steps=12, schedule=schedule, prediction="x0", **options)
        gaussian = Gaussian(made, 0.0, "x0")
        for row, state in zip(made.rows, gaussian.run(), strict=True):
            mean, variance = moments(state)
            assert mean == pytest.approx(row.next_alpha * MEAN, abs=1e-12)
            assert variance == pytest.approx(row.next_sigma**2, rel=1e-12, abs=1e-14)


def errors(name: str, options: dict[str, Any], steps: tuple[int, ...]) -> list[float]:
    """How far mean and deviation at the end are from the data's, per number of steps."""
    out = []
    for n in steps:
        schedule = schedules.log_snr(0.02, 50.0, process="vp", final_zero=False)
        made = plan(name, steps=n, schedule=schedule, prediction="epsilon", **options)
        state = Gaussian(made, SPREAD, "epsilon").run()[-1]
        last = made.rows[-1]
        mean, variance = moments(state)
        want = np.hypot(last.next_alpha * SPREAD, last.next_sigma)
        out.append(abs(mean - last.next_alpha * MEAN) + abs(np.sqrt(variance) - want))
    return out


TWO = ("dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "seeds")


def weak_order(name: str, options: dict[str, Any]) -> int:
    """Order of mean and deviation on Gaussian data: at most 2 where noise meets interpolation."""
    if name == "sa":
        corrector = options.get("corrector_order", 3)
        return min(2, corrector or options.get("order", 3))
    if name == "er_sde":
        return min(2, options.get("order", 1))
    return 2 if name in TWO else 1


DRIFTING = [
    ("dpm_1m_sde", {}),
    ("dpm_2m_sde", {"variant": "heun"}),
    ("dpm_2m_sde", {"variant": "midpoint"}),
    ("dpm_3m_sde", {}),
]


@pytest.mark.parametrize("entry", [e for e in SDE + DRIFTING if e[0] != "restart"], ids=name_of)
def test_weak_order_on_a_gaussian(entry: Any) -> None:
    name, options = entry
    steps = (128, 256, 512)
    measured = errors(name, options, steps)
    slope = -np.polyfit(np.log(steps), np.log(measured), 1)[0]
    assert slope >= weak_order(name, options) - 0.25, measured


def test_restart_converges_with_its_intervals() -> None:
    steps = (64, 128, 256)
    measured = [
        errors("restart", {"intervals": [(n // 4, 2, 0.1, 5.0), (n // 4, 1, 1.0, 20.0)]}, (n,))[0]
        for n in steps
    ]
    assert -np.polyfit(np.log(steps), np.log(measured), 1)[0] > 1.7, measured
