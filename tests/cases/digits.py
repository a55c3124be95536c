# SPDX-License-Identifier: Apache-2.0
"""The digits network as a test-bed of plan makers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fewstep import Sampler, schedules, solver
from fewstep.demo import frechet
from fewstep.demo.compare import TRACKED, Settings, exact
from fewstep.demo.network import Denoiser
from fewstep.demo.problem import SIGMA_MAX, SIGMA_MIN, conditions
from fewstep.guidance import cfg
from fewstep.search import Problem
from fewstep.solver import Plan

SCHEDULES = {
    "exponential": schedules.exponential(SIGMA_MIN, SIGMA_MAX),
    "karras": schedules.karras(SIGMA_MIN, SIGMA_MAX),
    "polynomial 3": schedules.polynomial(3.0, SIGMA_MIN, SIGMA_MAX),
    "kl_optimal": schedules.kl_optimal(SIGMA_MIN, SIGMA_MAX),
    "beta": schedules.beta(SIGMA_MIN, SIGMA_MAX),
}


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


def frechet_distance(plan: Plan, samples: int = 1500) -> float:
    """Distance of guided digits from real ones."""
    net = Denoiser.shared()
    cond, uncond = conditions(samples, True)
    images = Sampler(plan, cfg(2.0))(
        lambda x, t, label: net(x, t, label), (samples, 64), cond=cond, uncond=uncond
    )
    return frechet.to_real(images)


@cache
def best_unsearched(calls: int) -> tuple[float, str]:
    """Return the smallest held-out error of all solvers on all schedules, and whose it is."""
    held_out = judge()
    results = []
    for where, schedule in SCHEDULES.items():
        for name in solver.SOLVERS:
            for order in (None, 1, 2, 3, 4):
                plan = _plan(held_out, name, calls, schedule, order)
                if plan is not None:
                    results.append((held_out.error(plan), f"{name} order {order} on {where}"))
    return min(results)


def _plan(problem: Problem, name: str, calls: int, schedule: Any, order: int | None) -> Plan | None:
    """The solver's plan of so many calls, if it has one and draws no noise."""
    for steps in range(calls, 0, -1):
        try:
            plan = problem.plan(name, steps, schedule=schedule, order=order)
        except ValueError:  # another process, no such order, too few steps
            return None
        if plan.calls <= calls:
            noisy = any(v for row in plan.rows for line in row.noise for v in line)
            return None if noisy or plan.calls < calls else plan
    return None
