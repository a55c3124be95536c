# SPDX-License-Identifier: Apache-2.0
"""A plan begun at a sample that is given."""

from __future__ import annotations

from .._tail import tail
from ..solver import Plan


def enter(plan: Plan, row: int = 0) -> Plan:
    """Return a plan that begins at a given sample: ``x0=`` of the sampler is taken as it is.

    A plan puts noise of its first level on ``x0``; this one takes ``x0`` for the noisy sample.

    Parameters
    ----------
    plan : Plan
    row : int, default 0
        First row that runs; begins a step.

    Returns
    -------
    Plan
        To be called with ``x0=sample, start=0``.

    Raises
    ------
    ValueError
        `row` is out of range or inside a step.

    Examples
    --------
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = fewstep.plans.enter(fewstep.solver.plan("euler", schedule=schedule, prediction="x0"))
    >>> sampler = fewstep.Sampler(plan)
    >>> x = np.ones((1, 3), "f4")
    >>> sampler(lambda x, t: 0 * x, x0=x, start=0, trajectory=True)[1][:, 0, 0].tolist()
    [1.0, 0.5, 0.0]
    """
    rows = list(tail(plan, row).rows)
    # The first sample is alpha * x0 + sigma * noise of the first row.
    rows[0] = rows[0].replace(alpha=1.0, sigma=0.0)
    return Plan.from_rows(rows, f"{plan.name}, entered at row {row}")
