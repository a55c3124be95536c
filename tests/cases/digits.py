# SPDX-License-Identifier: Apache-2.0
"""The digits network as a test-bed of plan makers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fewstep import schedules
from fewstep.demo.compare import TRACKED, Settings, exact
from fewstep.demo.network import Denoiser
from fewstep.demo.problem import SIGMA_MAX, SIGMA_MIN, conditions
from fewstep.guidance import cfg
from fewstep.search import Problem

SCHEDULES = {
    "exponential": schedules.exponential(SIGMA_MIN, SIGMA_MAX),
    "karras": schedules.karras(SIGMA_MIN, SIGMA_MAX),
    "polynomial 3": schedules.polynomial(3.0, SIGMA_MIN, SIGMA_MAX),
    "kl_optimal": schedules.kl_optimal(SIGMA_MIN, SIGMA_MAX),
    "beta": schedules.beta(SIGMA_MIN, SIGMA_MAX),
}
SOLVERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("euler", {}), ("dpmpp_2m", {}), ("dpmpp_2m", {"variant": "heun"}), ("dpmpp_3m", {}),
    ("unipc", {"order": 1}), ("unipc", {"order": 2}), ("unipc", {"order": 3}),
    ("deis", {"order": 2}), ("deis", {"order": 3}), ("deis", {"order": 2, "variant": "rho"}),
    ("deis", {"order": 3, "variant": "rho"}),
)  # fmt: skip


@cache
def problem(samples: int, seed: int) -> Problem:
    """Guided digits from `samples` seeds."""
    net = Denoiser.shared()
    cond, uncond = conditions(samples, True)
    # One BLAS thread: the matrices are small, and a second one only spins.
    threadpool_limits(limits=1, user_api="blas")
    return Problem(
        lambda x, t, label: net(x, t, label), (samples, 64), schedule=SCHEDULES["exponential"],
        prediction="edm", sigma_data=net.sigma_data, seeds=range(seed, seed + samples), cond=cond,
        uncond=uncond, guidance=cfg(2.0),
    )  # fmt: skip


@cache
def judge() -> Problem:
    """Seeds that no search sees, with the float64 reference of an independent ODE solver."""
    held_out = problem(TRACKED, 0)
    held_out.reference = np.asarray(exact(Settings(seed=0)))
    return held_out


@cache
def best_unsearched(calls: int) -> tuple[float, str]:
    """Return the smallest held-out error of all solvers on all schedules, and whose it is."""
    held_out = judge()
    results = []
    for where, schedule in SCHEDULES.items():
        for name, options in SOLVERS:
            plan = held_out.plan(name, calls, schedule=schedule, **options)
            results.append((held_out.error(plan), f"{name} {options} on {where}"))
    return min(results)
