# SPDX-License-Identifier: Apache-2.0
"""Two-call solvers with a few learned numbers a step: Bespoke RK2 and AMED tables.

Both live in ``y = x / alpha`` with ``dy / ds = u = (y - x0) / s``, s the noise level. A step from
level t to t' calls the model at t and at a level between. Where the schedule ends at zero noise,
its last step is the one call that every solver makes there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..plans import from_weights
from ..schedules import Schedule
from ..solver import Plan
from ._descend import descend
from ._problem import Problem

Array = NDArray[np.float64]
# Of one step in y: (sample, newest prediction) of the middle, then of the end the middle sample,
# the middle's prediction and the start's.
_Step = tuple[tuple[float, float], tuple[float, float, float]]


def _levels(problem: Problem, function: str, steps: int, schedule: Schedule | None) -> Array:
    """Noise levels of `steps` two-call steps, without a final zero."""
    if not 1 <= steps <= 100:
        raise ValueError(f"fewstep.search.{function}: 'steps' must be 1 to 100, got {steps}")
    own = schedule or problem.schedule
    ends = problem.levels[-1] == 0.0
    nodes = own.nodes(own.default_steps or (steps + 1 if ends else steps))
    with np.errstate(divide="ignore"):
        levels = nodes.sigma / nodes.alpha
    levels = levels[levels > 0]
    if len(levels) != steps + 1 or not np.isfinite(levels).all():
        raise ValueError(
            f"fewstep.search.{function}: 'schedule' must place {steps + 1} finite levels above "
            f"zero, got {len(levels)}"
        )
    return levels


def _joined(problem: Problem, ends: Array, middles: Array, steps: list[_Step], name: str) -> Plan:
    """Return the plan of the steps, with the call at zero noise where the problem has one."""
    levels = np.empty(2 * len(middles) + 1)
    levels[::2], levels[1::2] = ends, middles
    if problem.levels[-1] == 0.0:
        levels = np.append(levels, 0.0)
    base = problem.plan("euler", schedule=problem.schedule_at(levels))
    weights: list[list[float]] = []
    for middle, end in steps:
        weights += [list(middle), list(end)]
    scaled = []
    for row, values in zip(base.rows, weights, strict=False):
        to = row.next_alpha
        scaled.append([to / row.alpha * values[0], *(to * v for v in values[1:])])
    if len(base) > len(scaled):
        scaled.append([0.0, 1.0])
    return from_weights(base, scaled, name)


def _two_stage(
    problem: Problem,
    build: Callable[[Array], Plan],
    size: int,
    iterations: int,
    name: str,
    progress: bool,
) -> Plan:
    found = descend(
        problem, build, np.zeros(size), iterations=iterations, name=name, progress=progress
    )
    return build(found)


def bespoke_plan(problem: Problem, ends: Array, parameters: Array) -> Plan:
    """Return the Bespoke RK2 plan of the parameters; zeros are the midpoint rule.

    Parameters
    ----------
    problem : Problem
    ends : array, shape (n + 1)
        Noise levels of the n steps to start from.
    parameters : array, shape (8n - 2)
        Changes of the logarithms of the inner levels (n - 1), the middle levels (n), the slopes of
        the level at start and middle (n, n), the scales at inner ends and middles (n - 1, n), and
        the slopes of the scale at start and middle (n, n).

    Returns
    -------
    Plan

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> fewstep.search.bespoke_plan(problem, np.array([20.0, 1.0, 0.05]), np.zeros(14)).calls
    5
    """
    n = len(ends) - 1
    if np.shape(parameters) != (8 * n - 2,):
        raise ValueError(
            f"fewstep.search.bespoke_plan: 'parameters' must have shape [{8 * n - 2}], "
            f"got {list(np.shape(parameters))}"
        )
    inner, middle, slope, slope_m, scale, scale_m, bend, bend_m = np.split(
        parameters, np.cumsum([n - 1, n, n, n, n - 1, n, n])
    )
    h = 1 / n
    t = ends * np.exp(np.concatenate([[0.0], inner, [0.0]]))
    t_m = np.sqrt(t[:-1] * t[1:]) * np.exp(middle)
    s = np.exp(np.concatenate([[0.0], scale, [0.0]]))
    s_m = np.exp(scale_m)
    # Slopes with which the unchanged step is the midpoint rule.
    dt, dt_m = 2 * (t_m - t[:-1]) / h * np.exp(slope), (t[1:] - t[:-1]) / h * np.exp(slope_m)
    steps: list[_Step] = []
    for i in range(n):
        # z / s_m = a y + b x0, then the end over (y, z / s_m, prediction there).
        push = h / 2 * s[i] * dt[i] / s_m[i] / t[i]
        a, b = (s[i] + h / 2 * bend[i]) / s_m[i] + push, -push
        far = h / s[i + 1]
        turn = far * dt_m[i] * s_m[i] / t_m[i]
        from_y, from_z = s[i] / s[i + 1], far * bend_m[i] + turn
        steps.append(((a, b), (from_y / a + from_z, -turn, -from_y / a * b)))
    return _joined(problem, t, t_m, steps, f"bespoke rk2, {n} steps")


def bespoke(
    problem: Problem,
    steps: int,
    *,
    schedule: Schedule | None = None,
    iterations: int = 10,
    progress: bool = False,
) -> Plan:
    """Learn a scale and time transformation for the midpoint rule (Bespoke RK2).

    The trajectory is ``y(r) = s(r) y(t(r))``; values and slopes of s and t at the steps' starts and
    middles, 8n - 2 numbers, are fitted to the final error, from the midpoint rule on.

    Parameters
    ----------
    problem : Problem
    steps : int
        Two-call steps; a schedule that ends at zero adds one call.
    schedule : Schedule, optional
        Where the steps begin.
    iterations : int, default 10
        Of Levenberg and Marquardt's method.
    progress : bool, default False
        Show a tqdm bar of iterations.

    Returns
    -------
    Plan
        No worse than the midpoint rule. Constant samples are not carried exactly, so `validate`
        refuses it, as it must.

    References
    ----------
    .. [1] Shaul et al., "Bespoke Solvers for Generative Flow Models", arXiv 2310.19075, section 3

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> fewstep.search.bespoke(problem, 2, iterations=2).calls
    5
    """
    ends = _levels(problem, "bespoke", steps, schedule)
    return _two_stage(
        problem, lambda p: bespoke_plan(problem, ends, p), 8 * steps - 2, iterations, "bespoke",
        progress,
    )  # fmt: skip


def amed_plan(problem: Problem, ends: Array, parameters: Array) -> Plan:
    """Return the AMED plan of a table; zeros are the geometric midpoint.

    Parameters
    ----------
    problem : Problem
    ends : array, shape (n + 1)
        Noise levels of the n steps.
    parameters : array, shape (3n)
        For each step the change of ``logit r`` with the middle at ``t**(1 - r) * t'**r``, the
        logarithm of the factor on the direction, and that of the factor on the time that the model
        is told.

    Returns
    -------
    Plan

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> fewstep.search.amed_plan(problem, np.array([20.0, 1.0, 0.05]), np.zeros(6)).calls
    5
    """
    n = len(ends) - 1
    if np.shape(parameters) != (3 * n,):
        raise ValueError(
            f"fewstep.search.amed_plan: 'parameters' must have shape [{3 * n}], "
            f"got {list(np.shape(parameters))}"
        )
    logit, direction, time = np.split(parameters, 3)
    r = 1 / (1 + np.exp(-logit))
    t = np.asarray(ends, np.float64)
    at = t[:-1] ** (1 - r) * t[1:] ** r
    told = at * np.exp(time)
    steps: list[_Step] = []
    for i in range(n):
        keep = at[i] / t[i]  # one Euler step to the middle
        move = np.exp(direction[i]) * (t[i + 1] - t[i]) / told[i]
        # y' = y + move (y_m - x0_m), y = (y_m - (1 - keep) x0) / keep.
        steps.append(((keep, 1 - keep), (1 / keep + move, -move, -(1 - keep) / keep)))
    return _joined(problem, t, told, steps, f"amed, {n} steps")


def amed(
    problem: Problem,
    steps: int,
    *,
    schedule: Schedule | None = None,
    iterations: int = 10,
    progress: bool = False,
) -> Plan:
    """Learn where each step looks and how far it goes (AMED-Solver, one table for all samples).

    By the mean value theorem a step along one direction can be exact if the model is asked at the
    right level between. That level, a factor on the direction and one on the time that the model is
    told are fitted for every step. The published solver predicts them from the network's features
    for each sample; a table holds their best common values.

    Parameters
    ----------
    problem : Problem
    steps : int
        Two-call steps; a schedule that ends at zero adds one call.
    schedule : Schedule, optional
    iterations : int, default 10
        Of Levenberg and Marquardt's method.
    progress : bool, default False
        Show a tqdm bar of iterations.

    Returns
    -------
    Plan
        No worse than the geometric midpoint (DPM-Solver-2).

    References
    ----------
    .. [1] Zhou et al., "Fast ODE-based Sampling for Diffusion Models in Around 5 Steps",
       arXiv 2312.00094

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> fewstep.search.amed(problem, 2, iterations=2).calls
    5
    """
    ends = _levels(problem, "amed", steps, schedule)
    return _two_stage(
        problem, lambda p: amed_plan(problem, ends, p), 3 * steps, iterations, "amed", progress
    )
