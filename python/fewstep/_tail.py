# SPDX-License-Identifier: Apache-2.0
"""Plans begun in the middle: image to image with any solver."""

from __future__ import annotations

import math
from functools import lru_cache

from .solver import Plan, Row

# fewstep_operand, fewstep_role and fewstep_frame of fewstep/plan.h.
_SAMPLE, _GUIDED, _CONVERTED, _SLOTS = 0, 16, 21, 16
_STATE, _HISTORY, _ANCHOR, _INPUT = range(4)
_X0, _EPSILON, _VELOCITY = range(3)


def first_row(plan: Plan, strength: float) -> int:
    """Return the row from which a share of the plan's steps is left.

    Parameters
    ----------
    plan : Plan
        All rows from noise to data.
    strength : float
        In (0, 1]: 1 is row 0; the number of steps is rounded, to one at least.

    Returns
    -------
    int
        Number of the first row of a step.

    Raises
    ------
    ValueError
        `strength` is out of range.
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"Sampler: 'strength' must be in (0, 1], got {strength}")
    steps = [row.step for row in plan.rows]
    distinct = list(dict.fromkeys(steps))
    run = max(1, round(strength * len(distinct)))
    return steps.index(distinct[len(distinct) - run])


@lru_cache(maxsize=64)
def tail(plan: Plan, start: int) -> Plan:
    """Return the rows from `start` on, fit to run without the rows before.

    A row that reads a slot which no row has written since `start` becomes the first-order step of
    its interval, so a multistep solver builds up its history again.

    Parameters
    ----------
    plan : Plan
        All rows.
    start : int
        First row; begins a step.

    Returns
    -------
    Plan
        `plan` itself for row 0.

    Raises
    ------
    ValueError
        `start` is out of range or inside a step.
    """
    if not 0 <= start < len(plan):
        raise ValueError(f"Sampler: 'start' must be in [0, {len(plan)}), got {start}")
    if start == 0:
        return plan
    rows = plan.rows
    if rows[start].step == rows[start - 1].step:
        raise ValueError(f"Sampler: 'start' must be the first row of a step, got {start}")
    written = {_SAMPLE}
    kept = []
    for number, row in enumerate(rows[start:], start):
        if any(0 < slot < _SLOTS and slot not in written for slot in row.input):
            row = _first_order(row, number)
        written.update(slot for slot in row.output if slot < _SLOTS)
        kept.append(row)
    return Plan.from_rows(kept, f"{plan.name} from row {start}")


def _first_order(row: Row, number: int) -> Row:
    """Return the one-node step of the same interval, noise and outputs.

    With ``h`` the step in log(alpha / sigma) and reverse-SDE strength ``tau``, in the x0 frame,
    ``x' = sigma'/sigma exp(-tau^2 h) x + alpha' (1 - exp(-(1 + tau^2) h)) x0 + noise``; all frames
    give the same one-node step, and the noise does not depend on the order.
    """
    alpha, sigma = row.alpha, row.sigma
    if row.next_sigma == 0.0:
        state = (0.0, row.next_alpha)
    else:
        h = math.log(row.next_alpha / row.next_sigma) - math.log(alpha / sigma)
        decay = math.exp(-(row.tau**2) * h)
        gain = -math.expm1(-(1 + row.tau**2) * h)
        state = (row.next_sigma / sigma * decay, row.next_alpha * gain)
    history = {
        _X0: (0.0, 1.0),
        _EPSILON: (1 / sigma, -alpha / sigma),
        _VELOCITY: (1 / sigma, -(alpha + sigma) / sigma),
    }
    formula = {  # weights of the sample and of x0
        _STATE: state,
        _HISTORY: history[row.frame],
        _ANCHOR: (1.0, 0.0),
        _INPUT: (row.next_scale * state[0], row.next_scale * state[1]),
    }
    single = any(_GUIDED < operand < _CONVERTED for operand in row.input)
    if single or any(role not in formula for role in row.role):
        raise ValueError(
            "Sampler: 'start' must leave every row the slots it reads; make the plan with "
            f"plan(..., start=...), got a plan whose row {number} reads an earlier row's"
        )
    weights = tuple(formula[role] for role in row.role)
    return row.replace(input=(_SAMPLE, _CONVERTED), a=weights, order=1)
