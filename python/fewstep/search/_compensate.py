# SPDX-License-Identifier: Apache-2.0
"""DC-Solver: UniPC with its newest prediction compensated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from ..plans import from_weights
from ..plans._linear import CONVERTED, GUIDED, SAMPLE, SLOTS, Weights, operands, triangle
from ..schedules import Schedule
from ..solver import Plan, Row
from ._descend import descend
from ._problem import Problem
from ._progress import bar
from ._refine import levels_of

Array = NDArray[np.float64]
_HISTORY, _ANCHOR = 1, 2


def dc_solver(
    problem: Problem,
    steps: int | None = None,
    *,
    order: int = 2,
    variant: str = "bh2",
    schedule: Schedule | None = None,
    points: int = 3,
    iterations: int = 4,
    progress: bool = False,
) -> Plan:
    """Compensate UniPC's newest prediction by interpolation, the ratio fitted in every step.

    The prediction at node i was made at a predicted sample. In the next predictor, and as history,
    it is replaced by the polynomial through the last predictions at
    ``ratio * lam_i + (1 - ratio) * lam_{i-1}``; ratio 1 changes nothing. Step after step, the ratio
    becomes the one that brings the next sample closest to the teacher's: that distance is a
    polynomial in the ratio, whose least value is found exactly. Then all ratios together are fitted
    to the final error, from these or from ones, whichever is better.

    Parameters
    ----------
    problem : Problem
    steps : int
        2 to 7.
    order, variant
        Of ``unipc``; the order is not lowered before the last step.
    schedule : Schedule, optional
        By default the problem's own; must end at zero noise.
    points : int, default 3
        Predictions in the interpolation, 2 or 3.
    iterations : int, default 4
        Of the joint fit (Levenberg and Marquardt's method); 0 leaves it out.
    progress : bool, default False
        Show a tqdm bar of steps.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        `points` or `steps` is out of range, or the schedule does not end at zero.

    References
    ----------
    .. [1] Zhao et al., "DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic
       Compensation", arXiv 2409.03755, section 3.2

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> found = fewstep.search.dc_solver(problem, 5)
    >>> problem.error(found) < problem.error(problem.plan("unipc", 5))
    True
    """
    if points not in (2, 3):
        raise ValueError(f"fewstep.search.dc_solver: 'points' must be 2 or 3, got {points}")
    end = problem.plan("euler", steps, schedule=schedule or problem.schedule)
    levels, count = levels_of(end), len(end)
    if levels[-1] != 0.0:
        raise ValueError(f"fewstep.search.dc_solver: 'schedule' must end at zero, got {levels[-1]}")
    if not 2 <= count <= 7:
        raise ValueError(f"fewstep.search.dc_solver: 'steps' must be 2 to 7, got {count}")
    # One node more, so that every row keeps its corrected sample; its own rows are not used.
    longer = problem.schedule_at([*levels[:-1], levels[-2] / 2, 0.0])
    unipc = problem.plan(
        "unipc", schedule=longer, order=order, variant=variant, lower_order_final=False
    )
    rows = [*unipc.rows[: count - 1], end.rows[-1]]
    lam = -np.log(np.maximum(levels, 1e-300))
    ratios = np.ones(count)
    targets = problem.states(levels[1:-1])
    with bar(count - 2, "dc_solver", progress) as tick:
        for i in range(1, count - 1):
            head = Plan.from_rows(rows[: i + 1])
            weights, kept = _compensated(rows[: i + 1], ratios, lam, points)
            seen = problem.run(from_weights(head, weights))
            past = [np.tensordot(v[1 : i + 2], seen.predictions, 1) for v in kept[:i]]
            newest = seen.predictions[i]
            gain = _newest_weight(rows[i])
            miss = targets[i] - seen.states[i + 1] + gain * newest
            ratios[i] = _best_ratio(miss, gain, [newest, *past[::-1]][:points], lam, i)
            tick()

    def build(inner: Array) -> Plan:
        all_ratios = np.concatenate([[1.0], inner, [1.0]])
        name = f"{unipc.name}, dc " + " ".join(f"{r:.3f}" for r in inner)
        return from_weights(end, _compensated(rows, all_ratios, lam, points)[0], name)

    starts = [ratios[1:-1], np.ones(count - 2)]
    found = min(starts, key=lambda inner: problem.error(build(inner)))
    if iterations > 0 and len(found):
        found = descend(
            problem, build, found, iterations=iterations, name="dc_solver", progress=progress
        )
    return build(found)


def _lagrange(lam: Array, i: int, points: int) -> list[Polynomial]:
    """Weights of the predictions i, i - 1, ... as polynomials in the ratio."""
    nodes = [float(lam[i - k]) for k in range(min(points, i + 1))]
    # lam' = lam_{i-1} + ratio * (lam_i - lam_{i-1}).
    at = Polynomial([lam[i - 1], lam[i] - lam[i - 1]])
    result = []
    for k, own in enumerate(nodes):
        weight = Polynomial([1.0])
        for other in nodes[:k] + nodes[k + 1 :]:
            weight = weight * (at - other) / (own - other)
        result.append(weight)
    return result


def _best_ratio(miss: Array, gain: float, values: Sequence[Array], lam: Array, i: int) -> float:
    """Return the ratio that minimises ``|miss - gain sum_k weight_k(ratio) values_k|^2``."""
    weights = _lagrange(lam, i, len(values))
    total = Polynomial([float((miss**2).sum())])
    for weight, value in zip(weights, values, strict=True):
        total = total - 2 * gain * float((miss * value).sum()) * weight
        for other, second in zip(weights, values, strict=True):
            total = total + gain**2 * float((value * second).sum()) * weight * other
    roots = total.deriv().roots()
    real = [1.0, *roots[np.abs(roots.imag) < 1e-9].real.tolist()]
    return float(min(real, key=total))


def _lines(row: Row) -> tuple[Array, Array]:
    """The row's weights of the next sample, and of the corrected sample that it keeps."""
    state = np.asarray(row.a[row.output.index(SAMPLE)])
    return state, np.asarray(row.a[row.role.index(_ANCHOR)])


def _newest_weight(row: Row) -> float:
    """The predictor's weight on the newest prediction: the predictor is what the next sample has
    beyond the corrected one.
    """
    state, anchor = _lines(row)
    predictor = state - row.next_sigma / row.sigma * anchor
    if CONVERTED in row.input:
        return float(predictor[row.input.index(CONVERTED)])
    return float(predictor[row.input.index(GUIDED)] / row.q)


def _compensated(
    rows: Sequence[Row], ratios: Array, lam: Array, points: int
) -> tuple[Weights, list[Array]]:
    """Return the rows' weights with these ratios, and the replaced predictions as vectors."""
    size = len(rows) + 1
    slots = np.zeros((SLOTS, size))
    slots[SAMPLE, 0] = 1.0
    samples = [slots[SAMPLE].copy()]
    kept: list[Array] = []
    for i, row in enumerate(rows):
        read = operands(row, i, slots)
        newest = np.eye(size)[i + 1]
        replaced = newest
        if i > 0 and ratios[i] != 1.0:
            values = [newest, *kept[::-1]][:points]
            weights = _lagrange(lam, i, len(values))
            replaced = np.sum([w(ratios[i]) * v for w, v in zip(weights, values, strict=True)], 0)
        kept.append(replaced)
        for output, role, line in zip(row.output, row.role, row.a, strict=True):
            if output < SLOTS:
                slots[output] = replaced if role == _HISTORY else np.asarray(line) @ read
        if _ANCHOR in row.role:
            slots[SAMPLE] += _newest_weight(row) * (replaced - newest)
        samples.append(slots[SAMPLE].copy())
    return triangle("fewstep.search.dc_solver", samples), kept
