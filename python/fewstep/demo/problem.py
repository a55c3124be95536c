# SPDX-License-Identifier: Apache-2.0
"""What the demo samples: noise levels, labels, and the network as each solver wants it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import schedules
from ..solver import Plan, plan
from .network import CLASSES, NO_CLASS, Denoiser

Array = NDArray[Any]

SIGMA_MIN = 0.05
"""Below half the grey levels' spacing of 1/8: removing less noise shows nothing more."""
SIGMA_MAX = 20.0
"""27 times the data's standard deviation: the digits are gone."""

SOLVERS = (
    "euler",
    "ddim",
    "heun",
    "deis",
    "dpmpp_2m",
    "dpmpp_3m",
    "unipc",
    "flow_euler",
    "flow_heun",
    "euler_ancestral",
    "ddpm",
    "dpmpp_2m_sde",
    "lcm",
)
"""Every solver the demo compares, deterministic ones first."""
STOCHASTIC = frozenset({"euler_ancestral", "ddpm", "dpmpp_2m_sde", "lcm"})
TWO_STAGE = frozenset({"heun", "flow_heun"})
"""Solvers that call the model twice per step; the last step, to zero noise, needs one call."""
ORDERED = frozenset({"unipc", "deis"})
"""Solvers that take an order."""


def plan_for(solver: str, calls: int, order: int | None = None) -> Plan:
    """Return a solver's plan with at most `calls` model calls, nodes even in log sigma.

    Parameters
    ----------
    solver : str
        One of `SOLVERS`.
    calls : int
        Budget of model calls, positive. A two-stage solver needs an odd number.
    order : int, optional
        For solvers that take one.

    Returns
    -------
    Plan

    Examples
    --------
    >>> plan_for("heun", 8).calls
    7
    """
    steps = (calls + 1) // 2 if solver in TWO_STAGE else calls
    options = {"order": order} if solver in ORDERED and order else {}
    if "flow" in solver:
        # The same noise levels in rectified flow: sigma' / (1 - sigma') = sigma.
        levels = schedules.exponential(SIGMA_MIN, SIGMA_MAX).nodes(steps).sigma
        schedule = schedules.sigmas(levels / (1 + levels), process="flow")
    else:
        schedule = schedules.exponential(SIGMA_MIN, SIGMA_MAX)
    return plan(
        solver,
        steps=steps,
        schedule=schedule,
        prediction="edm",
        sigma_data=Denoiser.shared().sigma_data,
        **options,
    )


class TimedModel:
    """The digits network in fewstep's model protocol; adds up the time it takes.

    Parameters
    ----------
    flow : bool
        Take rectified flow's time t = sigma / (1 + sigma) instead of sigma.
    """

    def __init__(self, flow: bool) -> None:
        self.flow = flow
        self.seconds = 0.0
        self.calls = 0
        self._net = Denoiser.shared()

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        begin = time.perf_counter()
        out = self._net(x, t / (1 - t) if self.flow else t, label)
        self.seconds += time.perf_counter() - begin
        self.calls += 1
        return out


def labels_for(samples: int) -> Array:
    """Return 0, 1, ..., 9, 0, ...: balanced classes."""
    return np.arange(samples) % CLASSES


def conditions(samples: int, guided: bool) -> tuple[dict[str, Array], dict[str, Array] | None]:
    """Return the sampler's ``cond`` and, when guided, ``uncond``."""
    none = {"label": np.full(samples, NO_CLASS)} if guided else None
    return {"label": labels_for(samples)}, none
