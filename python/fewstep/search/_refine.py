# SPDX-License-Identifier: Apache-2.0
"""Makers that fit a parametrised solver to the final error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..plans import from_weights, weights_of
from ..solver import Plan
from ._descend import descend
from ._problem import Problem
from ._weights import directions

Array = NDArray[np.float64]


def levels_of(plan: Plan) -> Array:
    """Return ``sigma / alpha`` at a plan's nodes, the end included; alpha = 0 is infinite."""
    rows = plan.rows
    alpha = np.array([r.alpha for r in rows] + [rows[-1].next_alpha])
    sigma = np.array([r.sigma for r in rows] + [rows[-1].next_sigma])
    with np.errstate(divide="ignore"):
        return np.asarray(sigma / alpha)


def refine(
    problem: Problem,
    plan: Plan,
    *,
    consistent: bool = True,
    move_nodes: bool = True,
    iterations: int = 10,
    progress: bool = False,
) -> Plan:
    """Fit all weights of a plan, and its noise levels, to the final error together.

    Where `iia` brings each row close to the teacher on its own, this minimises the distance of the
    final samples: an early row may miss the teacher where later rows make up for it.

    Parameters
    ----------
    problem : Problem
    plan : Plan
        Deterministic, a model call in every row, at most seven of them, such as `iia`'s.
    consistent : bool, default True
        Keep constant x0 and noise exact, so that the plan still validates.
    move_nodes : bool, default True
        Also move the noise levels between the first and the end.
    iterations : int, default 10
        Of Levenberg and Marquardt's method; each runs the plan once for every parameter.
    progress : bool, default False
        Show a tqdm bar of iterations.

    Returns
    -------
    Plan
        No worse than the start.

    References
    ----------
    .. [1] Frankel et al., "S4S: Solving for a Diffusion Model Solver", arXiv 2502.17423: weights
       and nodes from the final samples

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> plan = fewstep.search.iia(problem, problem.plan("euler", 4))
    >>> problem.error(fewstep.search.refine(problem, plan, iterations=2)) <= problem.error(plan)
    True
    """
    levels = levels_of(plan)
    first = weights_of(problem.plan("euler", schedule=problem.schedule_at(levels)))
    own = weights_of(plan)
    bases = [directions(len(w), consistent) for w in own]
    excess = [a - b for a, b in zip(own, first, strict=True)]
    moving = range(1, len(levels) - 1) if move_nodes else range(0)
    sizes = [len(b) for b in bases]

    def build(parameters: Array) -> Plan:
        nodes = levels.copy()
        for k, change in zip(moving, parameters, strict=False):
            nodes[k] *= np.exp(change)
        base = problem.plan("euler", schedule=problem.schedule_at(nodes))
        parts = np.split(parameters[len(moving) :], np.cumsum(sizes)[:-1])
        weights = [w + e + p @ b for w, e, p, b in
                   zip(weights_of(base), excess, parts, bases, strict=True)]  # fmt: skip
        return from_weights(base, weights, f"{plan.name}, refined")

    start = np.zeros(len(moving) + sum(sizes))
    found = descend(problem, build, start, iterations=iterations, name="refine", progress=progress)
    return build(found)
