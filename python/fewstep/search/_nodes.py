# SPDX-License-Identifier: Apache-2.0
"""Makers of schedules: which of a fine trajectory's noise levels a few steps should visit.

Dynamic programming over the fine levels: the cost of a schedule is a sum over its intervals, so the
best one with a given number of steps is found exactly.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..noise import STREAM_USER, normal
from ..schedules import Schedule
from ._problem import Problem
from ._progress import bar

Array = NDArray[np.float64]


def best_path(cost: Array, steps: int, discount: float = 1.0) -> list[int]:
    """Find the cheapest path from the first to the last of n places in exactly `steps` moves.

    Parameters
    ----------
    cost : array, shape (n, n)
        ``cost[i, j]`` of the move from place i to place j > i.
    steps : int
        1 to n - 1.
    discount : float, default 1
        Factor on the cost of all that comes after a move.

    Returns
    -------
    list of int
        ``steps + 1`` increasing places.

    Raises
    ------
    ValueError
        `steps` is out of range or no path has a finite cost.

    Examples
    --------
    >>> cost = np.array([[0, 1, 4, 9], [0, 0, 1, 4], [0, 0, 0, 1], [0, 0, 0, 0.0]])
    >>> best_path(cost, 3)
    [0, 1, 2, 3]
    """
    count = len(cost)
    if not 1 <= steps < count:
        raise ValueError(f"fewstep.search: 'steps' must be 1 to {count - 1}, got {steps}")
    later = np.triu(np.ones((count, count), bool), 1)
    move = np.where(later, cost, np.inf)
    value = np.full(count, np.inf)  # cost from each place to the end in the moves so far
    value[-1] = 0.0
    choices = []
    for _ in range(steps):
        total = move + discount * value[None, :]
        choices.append(total.argmin(1))
        value = total.min(1)
    if not np.isfinite(value[0]):
        raise ValueError("fewstep.search: 'cost' must leave a finite path, got none")
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path


def _grid(problem: Problem) -> tuple[Array, Array]:
    """Return the fine levels and the teacher's samples there; at level 0 the reference."""
    levels = problem.levels
    states = problem.states(levels[levels > 0])
    if levels[-1] == 0.0:
        states = np.concatenate([states, problem.reference[None]])
    return levels, states


def _euler_cost(
    problem: Problem, metric: Literal["l1", "l2"], squared: bool, name: str, progress: bool
) -> tuple[Array, Array]:
    """Cost of one first-order step between any two levels: its distance to the teacher."""
    levels, states = _grid(problem)
    count = len(levels)
    nodes = problem.schedule_at(levels).nodes()
    cost = np.full((count, count), np.inf)
    with bar(count - 1, name, progress) as tick:
        for i in range(count - 1):
            x0 = problem.predict(states[i], float(levels[i]))
            for j in range(i + 1, count):
                keep = nodes.sigma[j] / nodes.sigma[i]
                step = keep * states[i] + (nodes.alpha[j] - keep * nodes.alpha[i]) * x0
                miss = step - states[j]
                if metric == "l1":
                    cost[i, j] = np.abs(miss).sum(1).mean()
                else:
                    norm = (miss**2).sum(1)
                    cost[i, j] = (norm if squared else np.sqrt(norm)).mean()
            tick()
    return levels, cost


def boss(problem: Problem, steps: int, *, progress: bool = False) -> Schedule:
    """Choose noise levels by Bellman's principle: least sum of squared one-step errors.

    The cost of a step from level i to j is the mean squared distance of the first-order step from
    the teacher's sample at i to the teacher's sample at j. The teacher's levels are the candidates.

    Parameters
    ----------
    problem : Problem
    steps : int
    progress : bool, default False
        Show a tqdm bar of levels.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        `steps` is not below the number of the teacher's levels.

    References
    ----------
    .. [1] Nguyen et al., "Bellman Optimal Stepsize Straightening of Flow-Matching Models",
       arXiv 2312.16414

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3), teacher_steps=20,
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> found = problem.plan("euler", schedule=fewstep.search.boss(problem, 5))
    >>> problem.error(found) < problem.error(problem.plan("euler", 5))
    True
    """
    levels, cost = _euler_cost(problem, "l2", True, "boss", progress)
    return problem.schedule_at(levels[best_path(cost, steps)])


def gits(
    problem: Problem,
    steps: int,
    *,
    coefficient: float = 1.15,
    metric: Literal["l1", "l2"] = "l2",
    progress: bool = False,
) -> Schedule:
    """Choose noise levels by the geometry of the trajectory: least sum of one-step errors.

    As `boss`, with the mean distance (not squared) as a step's cost and the costs of later steps
    multiplied by a coefficient for each step.

    Parameters
    ----------
    problem : Problem
    steps : int
    coefficient : float, default 1.15
        Above 0. Above 1 weights late steps more, so that more nodes come at low noise.
    metric : {"l2", "l1"}
    progress : bool, default False

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Chen et al., "On the Trajectory Regularity of ODE-based Diffusion Sampling",
       arXiv 2405.11326

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3), teacher_steps=20,
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> len(fewstep.search.gits(problem, 5).nodes().t)
    6
    """
    if metric not in ("l1", "l2"):
        raise ValueError(f"fewstep.search.gits: 'metric' must be l1 or l2, got {metric!r}")
    if not coefficient > 0:
        raise ValueError(f"fewstep.search.gits: 'coefficient' must be above 0, got {coefficient}")
    levels, cost = _euler_cost(problem, metric, False, "gits", progress)
    return problem.schedule_at(levels[best_path(cost, steps, coefficient)])


def ays(problem: Problem, steps: int, *, seed: int = 0, progress: bool = False) -> Schedule:
    """Choose noise levels that minimise a bound on the KL divergence (Align Your Steps).

    For a first-order SDE solver that holds x0 over an interval, the bound is the integral of
    ``E |D(x_s, s) - D(x_i, i)|^2 / s^3`` over the noise levels s of the interval that begins at i.
    It is estimated with the reference samples as data and one Brownian path of noise for each, and
    minimised over the teacher's levels exactly, where the paper moves one node after another.

    Parameters
    ----------
    problem : Problem
    steps : int
    seed : int, default 0
        Of the noise.
    progress : bool, default False
        Show a tqdm bar of levels.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Sabour, Fidler, Kreis, "Align Your Steps: Optimizing Sampling Schedules in Diffusion
       Models", arXiv 2404.14507, section 3 and eq. 17

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3), teacher_steps=20,
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> len(fewstep.search.ays(problem, 5).nodes().t)
    6
    """
    levels, cost = kl_costs(problem, seed=seed, progress=progress)
    return problem.schedule_at(levels[best_path(cost, steps)])


def kl_costs(problem: Problem, *, seed: int = 0, progress: bool = False) -> tuple[Array, Array]:
    """Estimate the bound's part of every interval between the teacher's levels.

    Parameters
    ----------
    problem : Problem
        Its reference samples are the data.
    seed : int, default 0
        Of the noise.
    progress : bool, default False

    Returns
    -------
    levels : array, shape (n,)
    cost : array, shape (n, n)
        ``cost[i, j]`` of the step from level i to level j > i; a schedule's bound is the sum over
        its steps.

    Raises
    ------
    ValueError
        The problem begins without signal.
    """
    levels = problem.levels
    if not np.isfinite(levels[0]):
        raise ValueError("fewstep.search.ays: 'problem' must begin with signal, got alpha = 0")
    ends = levels[levels > 0]
    alphas = problem.schedule_at(levels).nodes().alpha
    batch, width = problem.reference.shape
    seeds = np.arange(batch) + seed * batch
    noise = np.zeros((batch, width))
    predicted: list[Array] = []
    with bar(len(ends), "ays", progress) as tick:
        for number in range(len(ends) - 1, -1, -1):  # the noise grows from data on
            below = ends[number + 1] if number + 1 < len(ends) else 0.0
            fresh = normal(seeds, (width,), step=number, stream=STREAM_USER)
            noise = noise + np.sqrt(ends[number] ** 2 - below**2) * fresh
            x = alphas[number] * (problem.reference + noise)
            predicted.insert(0, problem.predict(x, float(ends[number])))
            tick()
    cost = np.full((len(levels), len(levels)), np.inf)
    # Trapezoids of the integrand; below the last level x0 is what it is, so the last step is free.
    weight = 1 / ends**3
    for i in range(len(ends)):
        moved = [float(((p - predicted[i]) ** 2).sum(1).mean()) for p in predicted[i:]]
        f = weight[i:] * np.array(moved)
        area = (f[1:] + f[:-1]) / 2 * (ends[i:-1] - ends[i + 1 :])
        cost[i, i : len(ends)] = np.concatenate([[0.0], np.cumsum(area)])
        if len(levels) > len(ends):
            cost[i, -1] = cost[i, len(ends) - 1]
    return levels, cost
