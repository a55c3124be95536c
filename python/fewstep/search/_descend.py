# SPDX-License-Identifier: Apache-2.0
"""Least squares of a plan's final error in any parameters of the plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..solver import Plan
from ._problem import Problem
from ._progress import bar

Array = NDArray[np.float64]


def descend(
    problem: Problem,
    build: Callable[[Array], Plan],
    start: Array,
    *,
    iterations: int,
    name: str,
    progress: bool,
    step: float = 3e-3,
) -> Array:
    """Minimise a plan's squared error to the reference by Levenberg and Marquardt's method.

    Parameters
    ----------
    problem : Problem
    build : callable
        ``build(parameters)`` -> Plan; may raise ValueError outside its domain.
    start : array, shape (P,)
        In units in which a change of `step` is small and of 1 is large.
    iterations : int
        Each costs P + 1 runs of the plan, or a few more.
    name : str
        Of the bar.
    progress : bool
    step : float
        Of the differences; the model's float32 rounding forbids much less.

    Returns
    -------
    array, shape (P,)
        No worse than `start`.
    """
    reference = problem.reference

    def miss(parameters: Array) -> Array | None:
        try:
            plan = build(parameters)
        except ValueError:
            return None
        residual = (problem.sample(plan) - reference).ravel()
        return residual if np.isfinite(residual).all() else None

    now = np.asarray(start, np.float64).copy()
    residual = miss(now)
    if residual is None:
        raise ValueError(f"fewstep.search.{name}: the start must be a plan that runs, got none")
    damping = 1e-3
    with bar(iterations, name, progress) as tick:
        for _ in range(iterations):
            gram, slope = _normal_equations(miss, now, residual, step)
            better = None
            for _ in range(6):
                damped = gram + damping * np.diag(np.diag(gram) + 1e-12 * np.trace(gram))
                move = np.linalg.lstsq(damped, slope, rcond=1e-12)[0]
                # Far outside these units the linear model says nothing.
                candidate = now - move * min(1.0, 0.5 / max(float(np.abs(move).max()), 1e-300))
                tried = miss(candidate)
                if tried is not None and tried @ tried < residual @ residual:
                    better = (candidate, tried)
                    damping = max(damping / 5, 1e-9)
                    break
                damping *= 6
            tick()
            if better is None:
                break
            now, residual = better
    return now


def _normal_equations(
    miss: Callable[[Array], Array | None], now: Array, residual: Array, step: float
) -> tuple[Array, Array]:
    """Return J^T J and J^T r with one-sided differences; a side outside the domain is mirrored."""
    columns = []
    for k in range(len(now)):
        moved = None
        for side in (step, -step):
            shifted = now.copy()
            shifted[k] += side
            moved = miss(shifted)
            if moved is not None:
                break
        columns.append(np.zeros_like(residual) if moved is None else (moved - residual) / side)
    jacobian = np.array(columns)
    return jacobian @ jacobian.T, jacobian @ residual
