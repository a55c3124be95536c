# SPDX-License-Identifier: Apache-2.0
"""Guided steps: the calls between a model's outputs and the next sample, and their memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import is_torch
from ._corrections import prediction_plan, threshold
from ._guidance import GramGuidance, Guidance
from ._step import step
from ._sums import gram, quantile

if TYPE_CHECKING:
    from .solver import Plan, Row

# fewstep_operand of fewstep/plan.h.
_SAMPLE, _FIRST, _SECOND, _CONVERTED = 0, 17, 18, 21


@dataclass(frozen=True)
class Thresholding:
    """Dynamic thresholding of the predicted clean sample.

    For plans made with ``clip``: that clamp becomes one to the `ratio`-quantile s of the sample's
    magnitudes, after which the sample is divided by s.

    Attributes
    ----------
    ratio : float
        Which quantile, 0 to 1.
    minimum, maximum : float
        Bounds of s.

    Raises
    ------
    ValueError
        `ratio` is not in [0, 1], or the bounds are not ``0 < minimum <= maximum``.

    References
    ----------
    .. [1] Saharia et al., "Photorealistic text-to-image diffusion models with deep language
       understanding", arXiv 2205.11487, section 2.3.
    """

    ratio: float = 0.995
    minimum: float = 1.0
    maximum: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"Thresholding: 'ratio' must lie in [0, 1], got {self.ratio}")
        if not 0.0 < self.minimum <= self.maximum:
            raise ValueError(
                "Thresholding: 'minimum' must be above 0 and not above 'maximum', "
                f"got {self.minimum} and {self.maximum}"
            )


class Guide:
    """Takes steps whose weights or limits follow from the model's outputs.

    A step is one call of `fewstep.solver.step`, before which the outputs are read once for
    `fewstep.solver.gram`, or the predicted sample is written once and its quantile found. All
    memory is allocated at the first step; nothing waits for a device.

    Parameters
    ----------
    guidance : Guidance, optional
        From `fewstep.guidance`.
    thresholding : Thresholding, optional

    Examples
    --------
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = fewstep.solver.plan("euler", schedule=schedule, prediction="x0")
    >>> guide = Guide(fewstep.guidance.apg(7.0, norm_threshold=1.0))
    >>> state = np.ones((1, 2, 3), "f4")
    >>> cond, uncond = np.full((2, 3), 0.5, "f4"), np.zeros((2, 3), "f4")
    >>> guide.step(guide.plan(plan), 0, state, (cond, uncond))[0, 0]
    array([0.75, 0.75, 0.75], dtype=float32)
    """

    def __init__(
        self, guidance: Guidance | None = None, thresholding: Thresholding | None = None
    ) -> None:
        self.guidance = guidance
        self.thresholding = thresholding
        self._plan: Plan | None = None
        self._rows: tuple[Row, ...] = ()
        self._stepped: Plan | None = None  # with a weight for the running difference
        self._table: Any = None  # rows' own weights and whether they follow from the outputs
        self._looks: Plan | None = None  # rows that write the predicted sample
        self._made: Any = None
        self._gram: Any = None
        self._average: Any = None
        self._x0: Any = None

    def plan(self, plan: Plan) -> Plan:
        """Return a plan with the guidance's weights, for `step`.

        Parameters
        ----------
        plan : Plan
            Without guidance.

        Returns
        -------
        Plan
            Rows outside the guidance's interval combine one output, the conditional one.
        """
        return plan if self.guidance is None else self.guidance.plan(plan)

    def restart(self) -> None:
        """Forget the running difference: a trajectory begins."""
        if self._average is not None:
            self._average[...] = 0.0

    def step(self, plan: Plan, row: Any, state: Any, model_output: Any, **operands: Any) -> Any:
        """Take a step.

        Parameters
        ----------
        plan : Plan
            From `plan`.
        row : int or array, shape (B,), int32
            As for `fewstep.solver.step`. With an array, `model_output` holds as many outputs as the
            row in use that combines most of them.
        state : array, shape (S, B, ...), or sequence of S arrays, shape (B, ...); float32
            As for `fewstep.solver.step`.
        model_output : array, tuple of arrays, or None
            As for `fewstep.solver.step`.
        **operands
            ``seeds``, ``known``, ``mask``, ``model_input`` of `fewstep.solver.step`.

        Returns
        -------
        array, or list or tuple of arrays
            `state`.
        """
        if plan is not self._plan:
            self._plan, self._rows = plan, plan.rows
            self._looks = self._table = None
            self._stepped = _with_average(plan) if self._momentum != 0.0 else plan
        assert self._stepped is not None
        outputs = model_output if isinstance(model_output, (list, tuple)) else (model_output,)
        rows = self._rows if _several(row) else (self._rows[row],)
        weights = weighed = None
        if self._weighs(rows, state[0], outputs):
            weights, weighed, outputs = self._weigh(row, rows, state[0], tuple(outputs))
        given = None if model_output is None else outputs
        if self.thresholding is not None and given is not None and any(map(_clamps, rows)):
            operands["clip"] = self._limits(row, state[0], given, weights)
        step(self._stepped, row, state, given, guidance=weights, **operands)
        if weights is not None and self._average is not None:
            # m <- c - u + momentum m, of the samples that were guided
            step(_average_plan(self._momentum), weighed, [self._average], outputs[:-1])
        return state

    @property
    def _momentum(self) -> float:
        return self.guidance.momentum if isinstance(self.guidance, GramGuidance) else 0.0

    def _weighs(self, rows: Sequence[Row], x: Any, outputs: Any) -> bool:
        """Whether weights may follow from the outputs: not where only conditional ones came."""
        if self.guidance is None or not self.guidance.needs_gram or outputs[0] is None:
            return False
        several = sum(int(output.shape[0]) for output in outputs) > int(x.shape[0])
        return several and any(map(_combines, rows))

    def _weigh(
        self, row: Any, rows: Sequence[Row], x: Any, outputs: tuple[Any, ...]
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """Return the weights [B, n], row 0 or -1 of `_average_plan`, and the arrays weighed."""
        assert self.guidance is not None
        self._prepare(x, self.guidance.n + (self._momentum != 0.0))
        if self._average is not None:
            outputs = (*outputs, self._average)
        out, workspace = self._gram
        gram(outputs, out=out, workspace=workspace)
        weights = self.guidance.weigh(out, next(filter(_combines, rows)))
        if not _several(row):
            return weights, 0, outputs
        if self._table is None:
            self._table = _row_weights(self._rows, int(weights.shape[1]), x)
        own, follows = self._table
        xp: Any = _library(x)
        at = xp.clip(row, 0, None).astype(np.int64) if xp is np else xp.clip(row, 0, None).long()
        weighed = follows[at] & (row >= 0)
        weights = xp.where(weighed[:, None], weights, own[at])
        none = xp.zeros_like(row)
        return weights, xp.where(weighed, none, none - 1), outputs

    def _prepare(self, x: Any, n: int) -> None:
        """Allocate the memory of gram and of the running difference for samples like x."""
        made = (tuple(x.shape), getattr(x, "device", None), n)
        if self._made == made:
            return
        self._made = made
        batch, elements = int(x.shape[0]), math.prod(int(k) for k in x.shape[1:])
        needed = _core.solver_gram_workspace_bytes(batch, elements, n) // 8
        self._gram = (_zeros((batch, n + 1, n + 1), "float64", x), _zeros((needed,), "int64", x))
        self._average = _zeros(tuple(x.shape), "float32", x) if self._momentum != 0.0 else None

    def _limits(self, row: Any, x: Any, outputs: Any, weights: Any) -> Any:
        """Return the limits and factors [B, 2] of dynamic thresholding."""
        assert self.thresholding is not None
        assert self._stepped is not None
        if self._x0 is None or self._x0[0].shape != x.shape:
            batch, elements = int(x.shape[0]), math.prod(int(k) for k in x.shape[1:])
            needed = (_core.solver_quantile_workspace_bytes(batch, elements) + 7) // 8
            parts = ((tuple(x.shape), "float32"), ((batch,), "float32"), ((needed,), "int64"))
            self._x0 = [_zeros(shape, dtype, x) for shape, dtype in parts]
        x0, limit, workspace = self._x0
        if self._looks is None:
            self._looks = prediction_plan(self._stepped)
        step(self._looks, row, [x, x0], outputs, guidance=weights)
        quantile(x0, self.thresholding.ratio, out=limit, workspace=workspace)
        return threshold(
            limit, minimum=self.thresholding.minimum, maximum=self.thresholding.maximum
        )


def _with_average(plan: Plan) -> Plan:
    """Return a plan whose guided rows combine one array more."""
    rows = [r.replace(gamma=(*r.gamma, 0.0)) if _combines(r) else r for r in plan.rows]
    return type(plan).from_rows(rows, plan.name)


@lru_cache(maxsize=64)
def _average_plan(momentum: float) -> Plan:
    from .solver import Plan, Row

    row = Row(
        input=(_SAMPLE, _FIRST, _SECOND),
        output=(0,),
        role=(4,),
        a=((momentum, 1.0, -1.0),),
        evaluates=1,
        gamma=(1.0, -1.0),
    )
    return Plan.from_rows([row], "running difference")


def _several(row: Any) -> bool:
    """Whether each sample has a row of its own."""
    return not isinstance(row, (int, np.integer))


def _combines(row: Row) -> bool:
    return bool(row.evaluates and any(row.gamma[1:]))


def _clamps(row: Row) -> bool:
    return math.isfinite(row.clip) and _CONVERTED in row.input


def _row_weights(rows: Sequence[Row], count: int, like: Any) -> tuple[Any, Any]:
    """Return each row's weights [R, count] and whether they follow from the outputs [R]."""
    own = np.zeros((len(rows), count), np.float32)
    for line, row in zip(own, rows, strict=True):
        line[: len(row.gamma)] = row.gamma
    follows = np.array([_combines(row) for row in rows])
    if not is_torch(like):
        return own, follows
    xp = _library(like)
    return xp.from_numpy(own).to(like.device), xp.from_numpy(follows).to(like.device)


def _library(like: Any) -> Any:
    if not is_torch(like):
        return np
    import torch

    return torch


def _zeros(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    if is_torch(like):
        torch = _library(like)
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=like.device)
    return np.zeros(shape, dtype)
