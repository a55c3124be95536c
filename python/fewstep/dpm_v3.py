# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver-v3: coefficients that differ from element to element.

With ``lam = log(alpha / sigma)``, ``y = x / alpha`` and ``f = (sigma noise - l x) / alpha`` the
probability flow is ``dy / d lam = -l y - f``, where f changes as ``f' = s f + b`` but for what the
solver interpolates. l, s and b are measured for a network, one number for each noise level and
element (empirical model statistics). Between two levels everything is linear again::

    x_t = P * x_s + sum_j Q_j * f_j + R

with maps P, Q_j, R of the shape of a sample. l = 1, s = b = 0 is DPM-Solver++; l = 0, s = -1, b = 0
is DPM-Solver. Maps are no rows of a `Plan`, so here a step is a few array operations.

Reference: Zheng et al. 2023, "DPM-Solver-v3", arXiv 2310.13268, equations 11 to 18.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import solver
from ._batch import Batch, conditions_of, joined_conditions
from ._corrections import prediction_plan
from ._guide import Guide
from ._renoised import RenoisedGuidance
from ._run import checked_output, first_rows
from .guidance import Guidance
from .schedules import Schedule

__all__ = ["DPMSolverV3", "Statistics"]

Array = NDArray[np.float64]

_GAUSS = 8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_GAUSS)
# Row k integrates the polynomial through values at the nodes from -1 to node k.
_VANDERMONDE = np.linalg.inv(np.vander(_NODES, increasing=True))
_PRIMITIVE = np.array([
    [(x ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1) for k in range(_GAUSS)] for x in _NODES
]) @ _VANDERMONDE  # fmt: skip


@dataclass(frozen=True, eq=False)
class Statistics:
    """Empirical model statistics: l, s and b at noise levels, linear between.

    Attributes
    ----------
    lam : array, shape (n + 1,)
        Increasing values of log(alpha / sigma).
    l, s, b : arrays, shape (n + 1, N...) or (n + 1, 1...)
        Per element, or anything that broadcasts to a sample's shape.

    Examples
    --------
    >>> ones = np.ones((2, 1))
    >>> stats = fewstep.dpm_v3.Statistics([-3.0, 3.0], ones, 0 * ones, 0 * ones)
    >>> float(stats.at(0.5)[0][0])
    1.0
    """

    lam: ArrayLike
    l: ArrayLike  # noqa: E741
    s: ArrayLike
    b: ArrayLike

    def __post_init__(self) -> None:
        lam = np.asarray(self.lam, np.float64)
        if lam.ndim != 1 or len(lam) < 2 or not (np.diff(lam) > 0).all():
            raise ValueError("Statistics: 'lam' must be two or more increasing numbers, got "
                             f"shape {list(lam.shape)}")  # fmt: skip
        object.__setattr__(self, "lam", lam)
        for name in ("l", "s", "b"):
            values = np.asarray(getattr(self, name), np.float64)
            if values.shape[:1] != lam.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"Statistics: '{name}' must have {len(lam)} finite rows, got shape "
                    f"{list(values.shape)}"
                )
            object.__setattr__(self, name, values)

    def at(self, lam: float) -> tuple[Array, Array, Array]:
        """Return l, s and b at one level."""
        grid = np.asarray(self.lam)
        i = int(np.clip(np.searchsorted(grid, lam) - 1, 0, len(grid) - 2))
        w = (lam - grid[i]) / (grid[i + 1] - grid[i])
        l, s, b = (  # noqa: E741
            (1 - w) * np.asarray(v)[i] + w * np.asarray(v)[i + 1] for v in (self.l, self.s, self.b)
        )
        return l, s, b

    def knots(self, begin: float, end: float) -> list[float]:
        """Return the levels from `begin` to `end`, either way, at which l, s and b bend."""
        low, high = min(begin, end), max(begin, end)
        inner = [float(v) for v in np.asarray(self.lam) if low < v < high]
        return [begin, *(inner if begin < end else inner[::-1]), end]


@dataclass
class _Integrals:
    """From one level to another, relative to the first: sums and the values at quadrature nodes."""

    big_l: Any  # integral of l
    big_s: Any  # integral of s
    beta: Any  # integral of exp(-S) b
    nodes: list[tuple[float, float, Any, Any]]  # level, weight, exp(L + S), beta

    @classmethod
    def of(cls, statistics: Statistics, begin: float, end: float) -> _Integrals:
        big_l = big_s = beta = np.zeros(np.broadcast_shapes(
            *(v.shape for v in statistics.at(begin))))  # fmt: skip
        nodes = []
        for low, high in pairwise(statistics.knots(begin, end)):
            half = 0.5 * (high - low)
            levels = low + half * (1 + _NODES)
            columns = [np.broadcast_arrays(*statistics.at(float(u))) for u in levels]
            l, s, b = (np.stack([c[k] for c in columns]) for k in range(3))  # noqa: E741
            at_l = big_l + half * np.tensordot(_PRIMITIVE, l, 1)
            at_s = big_s + half * np.tensordot(_PRIMITIVE, s, 1)
            rate = np.exp(-at_s) * b
            at_beta = beta + half * np.tensordot(_PRIMITIVE, rate, 1)
            for k, u in enumerate(levels):
                growth = np.exp(at_l[k] + at_s[k])
                nodes.append((float(u), float(half * _WEIGHTS[k]), growth, at_beta[k]))
            big_l = big_l + half * np.tensordot(_WEIGHTS, l, 1)
            big_s = big_s + half * np.tensordot(_WEIGHTS, s, 1)
            beta = beta + half * np.tensordot(_WEIGHTS, rate, 1)
        return cls(big_l, big_s, beta, nodes)


def _lagrange(levels: Sequence[float], j: int, u: float) -> float:
    return math.prod((u - v) / (levels[j] - v) for k, v in enumerate(levels) if k != j)


def _newton(levels: Sequence[float], j: int, u: float) -> float:
    """Weight of value j when the i-th derivative at the first level is i! times the i-th divided
    difference: the paper's pseudo higher-order estimate.
    """
    total = 0.0
    for i in range(j, len(levels)):
        others = [levels[j] - v for k, v in enumerate(levels[: i + 1]) if k != j]
        total += (u - levels[0]) ** i / math.prod(others)
    return total


@dataclass
class _Maps:
    """x = P * x_s + sum_j Q_j * f_j + R."""

    P: Any
    Q: list[Any]
    R: Any


class DPMSolverV3:
    """Sampler with the multistep predictor, and corrector if wanted, of DPM-Solver-v3.

    Parameters
    ----------
    statistics : Statistics
        Must cover the schedule's noise levels.
    schedule : Schedule
        A last node at sigma = 0 is reached by x0 itself.
    steps : int, optional
        As of `fewstep.solver.plan`.
    order : {1, 2, 3}
        Of the predictor.
    corrector : bool, default False
        Correct each sample once the model has been called there; with as many values as the
        predictor, or one more with `pseudo_corrector`.
    pseudo, pseudo_corrector : bool, default False
        The paper's pseudo higher-order differences, in the predictor and in the corrector.
    lower_order_final : bool, default True
        Lower the order towards the end.
    prediction : str
        What the model tells, as of `fewstep.solver.plan`.
    guidance : Guidance, optional
        From `fewstep.guidance`, other than `cfg_pp`.

    Raises
    ------
    ValueError
        An option out of range, or levels that the statistics do not cover.

    Examples
    --------
    >>> ones = np.ones((2, 1))
    >>> stats = fewstep.dpm_v3.Statistics([-4.0, 4.0], ones, 0 * ones, 0 * ones)
    >>> schedule = fewstep.schedules.log_snr(0.05, 20.0)
    >>> draw = fewstep.dpm_v3.DPMSolverV3(stats, schedule, steps=4, prediction="x0")
    >>> bool(np.allclose(draw(lambda x, t: 0.0 * x + 0.5, (2, 3)), 0.5))
    True
    """

    def __init__(
        self,
        statistics: Statistics,
        schedule: Schedule,
        *,
        steps: int | None = None,
        order: int = 3,
        corrector: bool = False,
        pseudo: bool = False,
        pseudo_corrector: bool = False,
        lower_order_final: bool = True,
        prediction: str = "epsilon",
        guidance: Guidance | None = None,
    ) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"DPMSolverV3: 'order' must be 1, 2 or 3, got {order}")
        if isinstance(guidance, RenoisedGuidance):
            raise ValueError("DPMSolverV3: 'guidance' must change the prediction alone, got cfg_pp")
        self.statistics, self.guidance = statistics, guidance
        self.plan = solver.plan("ddim", schedule=schedule, steps=steps, prediction=prediction)
        if guidance is not None:
            self.plan = guidance.plan(self.plan)
        self._predictions = prediction_plan(self.plan)
        nodes = schedule.nodes(steps)
        lam = [float(v) for v in nodes.lam]
        grid = np.asarray(statistics.lam)
        used = lam[:-1] if nodes.sigma[-1] == 0 else lam
        slack = 1e-9 * (grid[-1] - grid[0])
        for value in (used[0], used[-1]):
            if not grid[0] - slack <= value <= grid[-1] + slack:
                raise ValueError(
                    "DPMSolverV3: 'statistics' must cover the schedule's log(alpha / sigma), "
                    f"{grid[0]:.4g} to {grid[-1]:.4g}, got {value:.4g}"
                )
        self._lam, self._alpha = lam, [float(v) for v in nodes.alpha]
        self.predictors: list[_Maps | None] = []
        self.correctors: list[_Maps | None] = []
        count, size = len(lam) - 1, 0
        for i in range(count):
            wanted = size + 1 if pseudo_corrector else size
            if corrector and i > 0 and wanted > 1:
                at = [i - 1, i, *range(i - 2, i - wanted, -1)]
                self.correctors.append(self._maps(i - 1, i, at, pseudo_corrector))
            else:
                self.correctors.append(None)
            size = min(order, i + 1)
            if lower_order_final:
                size = min(size, count - i)
            ends = not math.isfinite(lam[i + 1])
            at = list(range(i, i - size, -1))
            self.predictors.append(None if ends else self._maps(i, i + 1, at, pseudo))

    def _maps(self, begin: int, end: int, at: Sequence[int], pseudo: bool) -> _Maps:
        """Return the maps from node `begin` to `end` with f interpolated at the nodes `at`."""
        levels = [self._lam[i] for i in at]
        start = self._lam[begin]
        path = _Integrals.of(self.statistics, start, self._lam[end])
        basis = _newton if pseudo else _lagrange
        weights = [
            sum(w * growth * basis(levels, j, u) for u, w, growth, _ in path.nodes)
            for j in range(len(at))
        ]
        rest = sum(w * growth * beta for _, w, growth, beta in path.nodes)
        factor = self._alpha[end] * np.exp(-path.big_l)
        maps = _Maps(factor / self._alpha[begin], [], 0.0)
        for level, weight in zip(levels, weights, strict=True):
            there = _Integrals.of(self.statistics, start, level) if level != start else None
            shrink = np.exp(-there.big_s) if there else 1.0
            maps.Q.append(-factor * weight * shrink)
            if there:
                rest = rest - weight * there.beta
        maps.R = -factor * rest
        return maps

    def __call__(
        self,
        model: Callable[..., Any],
        shape: Sequence[int],
        *,
        seeds: Iterable[int] | None = None,
        cond: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        uncond: Mapping[str, Any] | None = None,
        device: Any = None,
    ) -> Any:
        """Draw a batch of samples.

        Parameters
        ----------
        model, shape, seeds, cond, uncond, device
            As of `fewstep.Sampler`.

        Returns
        -------
        array, shape (B, N...), float32
        """
        conds = conditions_of(cond)
        batch = Batch.prepare(
            shape, None, None, None, seeds, (*conds, uncond), model, device, "float32"
        )
        conditions = joined_conditions(batch, self.guidance, conds, uncond)
        x, x0 = (batch.arrays.zeros(batch.shape, "float32") for _ in range(2))
        guide = Guide(self.guidance)
        solver.step(self.plan.start(), 0, [x], None, seeds=batch.seeds)

        def apply(maps: _Maps, start: Any, history: dict[int, Any], at: Sequence[int]) -> Any:
            total = self._of(batch, maps.P) * start + self._of(batch, maps.R)
            for q, i in zip(maps.Q, at, strict=True):
                total = total + self._of(batch, q) * history[i]
            return total

        history: dict[int, Any] = {}
        before = x
        with batch.arrays.without_gradients():
            for i, row in enumerate(self.plan.rows):
                rows = row.n_guidance * batch.shape[0]
                t = batch.arrays.convert(np.full(rows, row.t, np.float32))
                told = x * row.scale
                if row.n_guidance > 1:
                    told = batch.arrays.concatenate([told] * row.n_guidance)
                output = checked_output(model(told, t, **first_rows(conditions, rows)), told)
                guide.step(self._predictions, i, [x, x0], output)
                weight = self.statistics.at(self._lam[i])[0]
                history[i] = self._of(batch, (1 - weight) / self._alpha[i]) * x - x0
                corrector, predictor = self.correctors[i], self.predictors[i]
                if corrector is not None:
                    at = [i - 1, i, *range(i - 2, i - len(corrector.Q), -1)]
                    x = apply(corrector, before, history, at)
                if predictor is None:
                    # What x0 is at the corrected sample follows from f, which stays as it is.
                    x = self._of(batch, (1 - weight) / self._alpha[i]) * x - history[i]
                    x = row.next_alpha * x
                    break
                before = x
                x = apply(predictor, before, history, range(i, i - len(predictor.Q), -1))
                history.pop(i - 3, None)
        return x

    @staticmethod
    def _of(batch: Batch, value: Any) -> Any:
        """Return a map as an array of the batch's kind, one sample for all."""
        if np.ndim(value) == 0:
            return float(value)
        return batch.arrays.convert(np.asarray(value, np.float32)[None], "float32")
