# SPDX-License-Identifier: Apache-2.0
"""Makers that fit a plan's weights on its own model calls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..plans import from_weights, weights_of
from ..solver import Plan
from ._problem import Problem, Trajectory
from ._progress import bar

Array = NDArray[np.float64]


def _fit(columns: list[Array], target: Array, ridge: float) -> Array:
    """Least squares of ``target = sum_k w_k columns_k``, pulled to zero."""
    matrix = np.stack([c.ravel() for c in columns], 1)
    gram = matrix.T @ matrix
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    return np.asarray(np.linalg.lstsq(gram, matrix.T @ target.ravel(), rcond=1e-13)[0])


def directions(count: int, consistent: bool) -> Array:
    """Basis of the allowed corrections to a row's weights, shape (directions, count).

    A consistent row carries constant x0 and noise to the next node: its corrections are
    differences of predictions.
    """
    if not consistent:
        return np.eye(count)
    basis = np.zeros((count - 2, count))
    basis[:, 1] = -1.0
    basis[np.arange(count - 2), np.arange(2, count)] = 1.0
    return basis


def iia(
    problem: Problem,
    plan: Plan,
    *,
    consistent: bool = True,
    ridge: float = 1e-6,
    progress: bool = False,
) -> Plan:
    """Fit each row's weights by least squares to the teacher's sample at the row's end.

    Improved integration approximation: the plan keeps its model calls; row after row, the weights
    on the sample and on all x0 predictions so far become those that bring the samples closest to
    the teacher's at the next noise level, the last row to the reference.

    Parameters
    ----------
    problem : Problem
    plan : Plan
        Deterministic, a model call in every row, at most seven of them. Its weights are the start.
    consistent : bool, default True
        Keep constant x0 and noise exact, so that the plan still validates; otherwise all weights
        are free.
    ridge : float, default 1e-6
        Pull towards the start, relative to the mean square of what is weighted.
    progress : bool, default False
        Show a tqdm bar of rows.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        A row draws noise, calls no model or reads too many predictions.

    References
    ----------
    .. [1] Zhang, Niwa, Kleijn, "On Accelerating Diffusion-Based Sampling Process via Improved
       Integration Approximation", arXiv 2304.11328

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> plan = problem.plan("euler", 4)
    >>> problem.error(fewstep.search.iia(problem, plan)) < 0.1 * problem.error(plan)
    True
    """
    if ridge < 0:
        raise ValueError(f"fewstep.search.iia: 'ridge' must be at least 0, got {ridge}")
    weights = [w.copy() for w in weights_of(plan)]
    rows = plan.rows
    levels = [row.next_sigma / row.next_alpha for row in rows[:-1]]
    targets = [*problem.states(levels), problem.reference]
    with bar(len(rows), "iia", progress) as tick:
        for i in range(len(rows)):
            head = from_weights(Plan.from_rows(rows[: i + 1]), weights[: i + 1])
            seen = problem.run(head)
            columns = _columns(seen, i)
            basis = directions(i + 2, consistent)
            moves = [sum(b * c for b, c in zip(d, columns, strict=True) if b) for d in basis]
            if moves:
                error = targets[i] - sum(w * c for w, c in zip(weights[i], columns, strict=True))
                weights[i] += _fit(moves, np.asarray(error), ridge) @ basis
            tick()
    return from_weights(plan, weights, f"{plan.name}, iia")


def _columns(seen: Trajectory, i: int) -> list[Array]:
    """What row i weights: the sample, then the predictions, newest first."""
    return [seen.states[i], *seen.predictions[: i + 1][::-1]]
