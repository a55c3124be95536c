# SPDX-License-Identifier: Apache-2.0
"""Corrections of what a model predicts or is told; `fewstep.guidance` re-exports them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import is_torch

if TYPE_CHECKING:
    from .solver import Plan, Row

# fewstep_operand of fewstep/plan.h.
_SAMPLE, _GUIDED, _CONVERTED, _MAX_INPUTS = 0, 16, 21, 8


def epsilon_scaled(plan: Plan, factor: float | Sequence[float]) -> Plan:
    """Divide the noise that the model predicts by a factor, against exposure bias.

    Parameters
    ----------
    plan : Plan
        For any kind of prediction: the noise is ``(x - alpha * x0) / sigma``.
    factor : float or sequence of float
        Above 0, usually a little above 1; one for each row, or one for all.

    Returns
    -------
    Plan
        The same steps; nothing is added to their cost.

    Raises
    ------
    ValueError
        `factor` has another length than the plan or a number that is not above 0, or the plan
        combines raw model outputs in a way that leaves no room for the correction.

    References
    ----------
    .. [1] Ning et al., "Elucidating the exposure bias in diffusion models", arXiv 2308.15321,
       eq. 15.

    Examples
    --------
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = fewstep.solver.plan("euler", schedule=schedule)
    >>> epsilon_scaled(plan, 1.25).rows[0].q / plan.rows[0].q
    0.8
    """
    from .solver import Plan

    count = len(plan)
    factors = [float(f) for f in (factor if isinstance(factor, Sequence) else [factor] * count)]
    if len(factors) != count:
        raise ValueError(
            f"epsilon_scaled: 'factor' must hold {count} numbers, one per row, got {len(factors)}"
        )
    for f in factors:
        if not (math.isfinite(f) and f > 0.0):
            raise ValueError(f"epsilon_scaled: 'factor' must be finite and above 0, got {f}")
    rows = [_scaled(row, f, i) for i, (row, f) in enumerate(zip(plan.rows, factors, strict=True))]
    return Plan.from_rows(rows, plan.name)


def _scaled(row: Row, factor: float, number: int) -> Row:
    """Return a row that divides the predicted noise.

    ``x0' = (x - sigma e / f) / alpha = ((1 - 1/f) / alpha + p / f) x + q / f output``; a raw output
    stands for ``(x0 - p x) / q``, which becomes ``output / f + k x``.
    """
    # At alpha = 0 the sample is the noise, whatever the model says.
    if not row.evaluates or factor == 1.0 or row.alpha == 0.0:
        return row
    if any(_GUIDED < operand < _CONVERTED for operand in row.input):
        raise ValueError(
            "epsilon_scaled: 'plan' must not read single outputs of the model, "
            f"got one whose row {number} does"
        )
    p = (1.0 - 1.0 / factor) / row.alpha + row.p / factor
    k = (p - row.p) / row.q
    if _GUIDED not in row.input:
        return row.replace(p=p, q=row.q / factor)
    at = row.input.index(_GUIDED)
    inputs = row.input if _SAMPLE in row.input else (*row.input, _SAMPLE)
    if len(inputs) > _MAX_INPUTS:
        raise ValueError(
            f"epsilon_scaled: 'plan' must leave an input for the sample, got 8 in row {number}"
        )
    sample = inputs.index(_SAMPLE)
    weights = []
    for old in row.a:
        new = [*old, *([0.0] * (len(inputs) - len(row.input)))]
        new[sample] += k * old[at]
        new[at] = old[at] / factor
        weights.append(tuple(new))
    return row.replace(p=p, q=row.q / factor, input=inputs, a=tuple(weights))


def prediction_plan(plan: Plan) -> Plan:
    """Make the rows that write the predicted clean sample to slot 1, to look at it.

    Parameters
    ----------
    plan : Plan
        With its guidance, if any.

    Returns
    -------
    Plan
        Row i writes ``x0 = p * x + q * g`` of `plan`'s row i, without a clamp, to slot 1 of the
        state it is given, and changes nothing else. A row that follows no model call copies the
        sample.

    Examples
    --------
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = prediction_plan(fewstep.solver.plan("euler", schedule=schedule, prediction="x0"))
    >>> x0 = np.zeros((1, 2), "f4")
    >>> state = [np.ones((1, 2), "f4"), x0]
    >>> _ = fewstep.solver.step(plan, 0, state, np.full((1, 2), 0.25, "f4"))
    >>> x0
    array([[0.25, 0.25]], dtype=float32)
    """
    from .solver import Plan, Row

    rows = []
    for row in plan.rows:
        fields: dict[str, Any] = {"input": (_SAMPLE,)}
        if row.evaluates:
            fields = {"input": (_CONVERTED,), "evaluates": 1, "gamma": row.gamma}
            fields |= {"p": row.p, "q": row.q}
        rows.append(Row(output=(1,), role=(4,), a=((1.0,),), step=row.step, **fields))
    return Plan.from_rows(rows, f"{plan.name} prediction")


def threshold(quantiles: Any, *, minimum: float = 1.0, maximum: float = math.inf) -> Any:
    """Turn quantiles of the predicted samples into limits for dynamic thresholding.

    Parameters
    ----------
    quantiles : array, shape (B,), float32
        `fewstep.solver.quantile` of the predicted clean samples' magnitudes.
    minimum, maximum : float
        Bounds of the limit s; with ``minimum=1`` samples within [-1, 1] stay as they are.

    Returns
    -------
    array, shape (B, 2), float32
        ``(s, 1 / s)``, for ``clip`` of `fewstep.solver.step`: x0 is clamped to [-s, s] and divided
        by s.

    Raises
    ------
    ValueError
        The bounds are not ``0 < minimum <= maximum``.

    References
    ----------
    .. [1] Saharia et al., "Photorealistic text-to-image diffusion models with deep language
       understanding", arXiv 2205.11487, section 2.3.

    Examples
    --------
    >>> threshold(np.array([0.5, 2.0, 8.0], "f4"), maximum=4.0)
    array([[1.  , 1.  ],
           [2.  , 0.5 ],
           [4.  , 0.25]], dtype=float32)
    """
    if not 0.0 < minimum <= maximum:
        raise ValueError(
            "threshold: 'minimum' must be above 0 and not above 'maximum', "
            f"got {minimum} and {maximum}"
        )
    xp: Any = np
    if is_torch(quantiles):
        import torch

        xp = torch
    s = xp.clip(quantiles, minimum, maximum)
    return xp.stack([s, 1.0 / s], -1)


def shifted_times(
    gram: Any, time: Any, times: Any, variances: Any, *, window: float, cutoff: float = 0.0
) -> Any:
    """Find for each sample the time at which its variance is right.

    A sampler's samples lag behind or run ahead of the schedule; calling the model with the time
    that fits makes up for it: ``argmin_s |var(x) - variances(s)|`` over the times s within half a
    window of the nominal one.

    Parameters
    ----------
    gram : array, shape (B, 2, 2), float64
        `fewstep.solver.gram` of the samples.
    time : float or array, shape (B,)
        The nominal time of the next model call.
    times, variances : array, shape (T,)
        The schedule: times and the noise's variance sigma**2 at them; for data of another variance
        than 1 that of the noised samples.
    window : float
        Width of the search.
    cutoff : float, default 0.0
        At nominal times up to this nothing is shifted.

    Returns
    -------
    array, shape (B,), float32
        Times for the model, of gram's kind and device; the nominal one where no entry of `times`
        lies in the window.

    References
    ----------
    .. [1] Li et al., "Alleviating exposure bias in diffusion models through sampling with shifted
       time steps", arXiv 2305.15583, algorithm 2.

    Examples
    --------
    >>> x = np.array([[2.0, -2.0, 2.0, -2.0, 0.0]], "f4")  # variance 4
    >>> t = np.arange(10.0)
    >>> shifted_times(fewstep.solver.gram(x), 6.0, t, t, window=6.0)
    array([4.], dtype=float32)
    """
    xp: Any = np
    if is_torch(gram):
        import torch

        xp = torch
        times, variances, time = (
            torch.as_tensor(v, dtype=torch.float64, device=gram.device)
            for v in (times, variances, time)
        )
    else:
        times, variances, time = (np.asarray(v, np.float64) for v in (times, variances, time))
    count, total = gram[:, 0, 0], gram[:, 0, 1]
    variance = (gram[:, 1, 1] - total * total / count) / (count - 1.0)  # [B]
    time = time + xp.zeros_like(variance)
    near = xp.abs(times - time[:, None]) <= 0.5 * window  # [B, T]
    distance = xp.abs(variance[:, None] - variances[None, :])
    distance = xp.where(near, distance, xp.full_like(distance, math.inf))
    best = times[xp.argmin(distance, -1)]
    usable = near.any(-1) & (variance == variance) & (time > cutoff)
    shifted = xp.where(usable, best, time)
    return shifted.astype(np.float32) if xp is np else shifted.float()


@dataclass(frozen=True, eq=False)
class TimeShift:
    """Model times that follow each sample's own variance, for `fewstep.Sampler`.

    After each step `shifted_times` finds the time of the next call.

    Attributes
    ----------
    times, variances : array, shape (T,)
        The schedule: times that the model knows, and sigma**2 at them; for data of another variance
        than 1 that of the noised samples.
    window : float
        Width of the search.
    cutoff : float
        At nominal times up to this nothing is shifted.

    Raises
    ------
    ValueError
        `times` and `variances` are not two equally long rows of finite numbers, or `window` is not
        above 0.

    References
    ----------
    .. [1] Li et al., "Alleviating exposure bias in diffusion models through sampling with shifted
       time steps", arXiv 2305.15583, algorithm 2.

    Examples
    --------
    >>> schedule = fewstep.schedules.vp_linear()
    >>> nodes = schedule.nodes(1000)
    >>> shift = TimeShift(nodes.t, nodes.sigma**2, window=40, cutoff=200)
    >>> plan = fewstep.solver.plan("ddim", schedule=schedule, steps=10)
    >>> sampler = fewstep.Sampler(plan, time_shift=shift)
    >>> sampler(lambda x, t: 0.9 * x, shape=(2, 8), seeds=[1, 2]).shape
    (2, 8)
    """

    times: Any
    variances: Any
    window: float
    cutoff: float = 0.0

    def __post_init__(self) -> None:
        for name in ("times", "variances"):
            values = np.asarray(getattr(self, name), np.float64)
            if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
                raise ValueError(
                    f"TimeShift: '{name}' must be a row of finite numbers, "
                    f"got shape {list(values.shape)}"
                )
            object.__setattr__(self, name, values)
        if len(self.times) != len(self.variances):
            raise ValueError(
                f"TimeShift: 'variances' must have {len(self.times)} numbers like 'times', "
                f"got {len(self.variances)}"
            )
        if not self.window > 0.0:
            raise ValueError(f"TimeShift: 'window' must be above 0, got {self.window}")
