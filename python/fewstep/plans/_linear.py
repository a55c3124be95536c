# SPDX-License-Identifier: Apache-2.0
"""A plan as a triangle of weights over its own x0 predictions, and back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..solver import Plan, Row

Weights = tuple[NDArray[np.float64], ...]

# fewstep_operand and fewstep_role of fewstep/plan.h.
SAMPLE, SLOTS, GUIDED, CONVERTED, MODEL_INPUT = 0, 16, 16, 21, 23
STATE, HISTORY, INPUT = 0, 1, 3
MAX_INPUTS = 8


def check_rows(function: str, plan: Plan) -> None:
    for number, row in enumerate(plan.rows):
        if not row.evaluates:
            raise ValueError(
                f"{function}: 'plan' must call the model in every row, got row {number}"
            )
        if any(v != 0.0 for line in row.noise for v in line):
            raise ValueError(f"{function}: 'plan' must be deterministic, got noise in row {number}")
        if SAMPLE not in row.output:
            raise ValueError(f"{function}: 'plan' must move the sample, got row {number}")


def weights_of(plan: Plan) -> Weights:
    """Write a plan's rows as weights over the sample and all x0 predictions so far.

    With ``h_i`` the x0 prediction of row i (clamped where the plan clamps), each row is
    ``x_{i+1} = w[0] x_i + w[1] h_i + w[2] h_{i-1} + ... + w[i + 1] h_0``.

    Parameters
    ----------
    plan : Plan
        Deterministic, with a model call in every row: any solver, order, stage or corrector.

    Returns
    -------
    tuple of arrays
        One per row, shape (i + 2), float64.

    Raises
    ------
    ValueError
        A row draws noise, calls no model, or forgets the first sample (as ``lcm`` does) and reads
        it later.

    Examples
    --------
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = fewstep.solver.plan("euler", schedule=schedule)
    >>> [w.round(6).tolist() for w in fewstep.plans.weights_of(plan)]
    [[0.5, 0.5], [0.0, 1.0, 0.0]]
    """
    function = "fewstep.plans.weights_of"
    check_rows(function, plan)
    # Slots as vectors over (first sample, h_0, ..., h_{n - 1}).
    slots = np.zeros((SLOTS, len(plan) + 1))
    slots[SAMPLE, 0] = 1.0
    samples = [slots[SAMPLE].copy()]
    for i, row in enumerate(plan.rows):
        read = operands(row, i, slots)
        for output, line in zip(row.output, row.a, strict=True):
            if output < SLOTS:
                slots[output] = np.asarray(line) @ read
        samples.append(slots[SAMPLE].copy())
    return triangle(function, samples)


def operands(row: Row, i: int, slots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what row i reads, as vectors over the first sample and all predictions."""
    converted = np.zeros(slots.shape[1])
    converted[i + 1] = 1.0
    guided = (converted - row.p * slots[SAMPLE]) / row.q
    own = {GUIDED: guided, CONVERTED: converted}
    return np.array([own[k] if k in own else slots[k] for k in row.input])


def triangle(function: str, samples: Sequence[NDArray[np.float64]]) -> Weights:
    """Return the weights whose samples, before the first and after each row, are these."""
    result = []
    for i, (before, after) in enumerate(itertools.pairwise(samples)):
        if before[0] == 0.0 and abs(after[0]) > 1e-13:
            raise ValueError(
                f"{function}: 'plan' must not return to a sample it has left, got row {i}"
            )
        scale = after[0] / before[0] if before[0] != 0.0 else 0.0
        rest = after - scale * before
        result.append(np.concatenate([[scale], rest[1 : i + 2][::-1]]))
    return tuple(result)


def from_weights(plan: Plan, weights: Sequence[ArrayLike], name: str | None = None) -> Plan:
    """Return the plan with the same model calls and other weights: the inverse of `weights_of`.

    Parameters
    ----------
    plan : Plan
        Whose times, noise levels, prediction and guidance stay.
    weights : sequence of arrays
        One per row as `weights_of` gives them; an array may end early, the rest is zero.
    name : str, optional
        Provenance; by default the plan's own.

    Returns
    -------
    Plan
        Its rows read the sample and at most six x0 predictions before the newest.

    Raises
    ------
    ValueError
        The number of rows or weights is wrong, a weight is not finite, or a row reads too many.

    Examples
    --------
    >>> schedule = fewstep.schedules.exponential(0.1, 10.0)
    >>> plan = fewstep.solver.plan("deis", steps=5, schedule=schedule)
    >>> same = fewstep.plans.from_weights(plan, fewstep.plans.weights_of(plan))
    >>> same.validate() < 1e-9
    True
    """
    function = "fewstep.plans.from_weights"
    check_rows(function, plan)
    if len(weights) != len(plan):
        raise ValueError(f"{function}: 'weights' must have {len(plan)} rows, got {len(weights)}")
    arrays = []
    for i, values in enumerate(weights):
        array = np.asarray(values, np.float64)
        if array.ndim != 1 or not 2 <= len(array) <= i + 2:
            raise ValueError(
                f"{function}: 'weights[{i}]' must have 2 to {i + 2} entries, got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{function}: 'weights[{i}]' must be finite, got {array.tolist()}")
        arrays.append(np.trim_zeros(array[2:], "b"))
        arrays[-1] = np.concatenate([array[:2], arrays[-1]])
    depth = max(len(a) for a in arrays) - 2
    if depth > MAX_INPUTS - 2:
        raise ValueError(
            f"{function}: 'weights' must read at most {MAX_INPUTS - 2} earlier predictions in a "
            f"row, got {depth}"
        )
    rows = [_row(row, i, arrays, depth) for i, row in enumerate(plan.rows)]
    return Plan.from_rows(rows, plan.name if name is None else name)


def _row(row: Row, i: int, weights: Sequence[NDArray[np.float64]], depth: int) -> Row:
    """Return row i with history in a ring of `depth` slots from slot 1 on."""
    w = weights[i]
    older = range(len(w) - 2)  # h_{i - 1 - j} of each
    slot = [1 + (i - 1 - j) % depth for j in older]
    clamped = np.isfinite(row.clip)
    newest = [0.0, 1.0] if clamped else [row.p, row.q]  # x0 over slot 0 and the last operand
    state = [w[0] + w[1] * newest[0], *w[2:].tolist(), w[1] * newest[1]]
    inputs = [SAMPLE, *slot, CONVERTED if clamped else GUIDED]
    outputs, lines, roles, like = [SAMPLE], [state], [STATE], [row.output.index(SAMPLE)]
    if any(k - i <= len(weights[k]) - 2 for k in range(i + 1, len(weights))):
        outputs.append(1 + i % depth)
        lines.append([newest[0], *[0.0] * len(slot), newest[1]])
        roles.append(HISTORY)
        like.append(-1)
    if MODEL_INPUT in row.output:
        outputs.append(MODEL_INPUT)
        lines.append([row.next_scale * v for v in state])
        roles.append(INPUT)
        like.append(row.output.index(MODEL_INPUT))
    zeros = (0.0,) * len(row.noise_stream)
    carried = (row.next_alpha, row.next_sigma)
    # Constant x0 and noise reach the next node: then the row may say that it has order 1.
    exact = np.allclose(
        [w[0] * row.alpha + w[1:].sum(), w[0] * row.sigma], carried, rtol=1e-12, atol=1e-12
    )
    return row.replace(
        input=tuple(inputs), output=tuple(outputs), role=tuple(roles),
        a=tuple(tuple(line) for line in lines),
        blend=tuple(row.blend[k] if k >= 0 else 0 for k in like),
        noise=tuple(zeros for _ in like),
        known=tuple(row.known[k] if k >= 0 else 0.0 for k in like),
        known_noise=tuple(row.known_noise[k] if k >= 0 else zeros for k in like),
        frame=0, variable=0, order=int(exact), tau=0.0,
        from_alpha=row.alpha, from_sigma=row.sigma,
    )  # fmt: skip
