# SPDX-License-Identifier: Apache-2.0
"""A plan whose rows come from several solvers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..solver import Plan, Row
from ._linear import (
    SAMPLE,
    SLOTS,
    check_rows,
    from_weights,
    operands,
    triangle,
)

Vector = NDArray[np.float64]
_HISTORY, _ANCHOR = 1, 2
_X0, _EPSILON = 0, 1


class _Content(NamedTuple):
    """What a slot holds: a role, and the row that wrote it."""

    role: int
    row: int
    frame: int


def splice(plans: Sequence[Plan], choice: Sequence[int]) -> Plan:
    """Take row i from plan ``choice[i]``: another solver, order, frame or corrector in every step.

    Each row is given what it reads (x0, noise or velocity of an earlier call, or the sample there)
    as it is on the spliced trajectory, not on the trajectory of the plan that it comes from.

    Parameters
    ----------
    plans : sequence of Plan
        Deterministic, one model call a row, the same noise levels and prediction; at most seven
        rows unless the chosen rows read little history.
    choice : sequence of int
        One index into `plans` for each row.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        The plans do not fit together, or an index is out of range.

    Examples
    --------
    >>> schedule = fewstep.schedules.exponential(0.1, 10.0)
    >>> plans = [fewstep.solver.plan(s, steps=4, schedule=schedule) for s in ("deis", "unipc")]
    >>> fewstep.plans.splice(plans, [1, 1, 0, 1]).validate() < 1e-9
    True
    """
    function = "fewstep.plans.splice"
    if not plans:
        raise ValueError(f"{function}: 'plans' must not be empty, got {len(plans)}")
    first = plans[0]
    places = [_place(row) for row in first.rows]
    for number, plan in enumerate(plans):
        check_rows(function, plan)
        if [_place(row) for row in plan.rows] != places:
            raise ValueError(
                f"{function}: 'plans[{number}]' must make the model calls of plans[0], got others"
            )
    if len(choice) != len(first) or not all(0 <= c < len(plans) for c in choice):
        raise ValueError(
            f"{function}: 'choice' must be {len(first)} indices below {len(plans)}, "
            f"got {list(choice)}"
        )
    contents = [_contents(plan) for plan in plans]
    rows = [plans[c].rows[i] for i, c in enumerate(choice)]
    size = len(rows) + 1
    samples = [np.eye(1, size)[0]]  # before each row, over (first sample, h_0, ...)
    anchors: list[Vector] = []  # the sample at each row as that row corrects it
    for i, (row, c) in enumerate(zip(rows, choice, strict=True)):
        slots = np.zeros((SLOTS, size))
        slots[SAMPLE] = samples[i]
        for slot, content in contents[c][i].items():
            slots[slot] = _value(content, rows, samples, anchors)
        read = operands(row, i, slots)
        lines = dict(zip(row.output, row.a, strict=True))
        roles = dict(zip(row.role, row.a, strict=True))
        anchors.append(np.asarray(roles[_ANCHOR]) @ read if _ANCHOR in roles else samples[i])
        samples.append(np.asarray(lines[SAMPLE]) @ read)
    names = [plans[c].name for c in choice]
    name = names[0] if len(set(names)) == 1 else "spliced: " + ", ".join(names)
    return from_weights(Plan.from_rows(rows, name), triangle(function, samples))


def _place(row: Row) -> tuple[float, ...]:
    return (row.t, row.alpha, row.sigma, row.scale, row.p, row.q, row.clip,
            row.next_alpha, row.next_sigma)  # fmt: skip


def _contents(plan: Plan) -> list[dict[int, _Content]]:
    """What each slot but the sample's holds before each row."""
    now: dict[int, _Content] = {}
    result = []
    for i, row in enumerate(plan.rows):
        result.append(dict(now))
        for output, role in zip(row.output, row.role, strict=True):
            if SAMPLE < output < SLOTS:
                if role not in (_HISTORY, _ANCHOR):
                    raise ValueError(
                        "fewstep.plans.splice: 'plans' must keep model outputs and samples only, "
                        f"got another role in row {i}"
                    )
                now[output] = _Content(role, i, row.frame)
    return result


def _value(
    content: _Content, rows: Sequence[Row], samples: Sequence[Vector], anchors: Sequence[Vector]
) -> Vector:
    j = content.row
    if content.role == _ANCHOR:
        return anchors[j]
    x0 = np.zeros(len(samples[0]))
    x0[j + 1] = 1.0
    if content.frame == _X0:
        return x0
    noise = (samples[j] - rows[j].alpha * x0) / rows[j].sigma
    return noise if content.frame == _EPSILON else noise - x0
