# SPDX-License-Identifier: Apache-2.0
"""What guidance is to a sampler: the classes behind `fewstep.guidance`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .solver import Plan, Row


@dataclass(frozen=True)
class Guidance:
    """Weights over a model's conditional and unconditional output; made by `cfg`.

    Every guidance is one: it has `n`, and `weights` for the rows of a plan. Where `needs_gram`, the
    weights of a step come from `weigh`, and those of `weights` say only where guidance is on.

    Attributes
    ----------
    scale : float
        Weight of the conditional output where guidance is on.
    interval : tuple of two floats, or None
        Noise levels ``low < sigma / alpha <= high`` at which guidance is on; None for all.
    n : int
        Number of model outputs that a step combines, at most 4.
    """

    scale: float
    interval: tuple[float, float] | None = None
    n: int = 2

    def weights(self, plan: Plan) -> NDArray[np.float64]:
        """Return the weights of each model output, for `Plan.with_guidance`.

        Parameters
        ----------
        plan : Plan
            Its rows' noise levels decide where an interval applies.

        Returns
        -------
        array, shape (1, 2) or (rows, 2), float64
            Conditional first; each row sums to 1. One row serves all without an interval.
        """
        guided = [self.scale, 1.0 - self.scale]
        return outside(plan, self.interval, np.array([guided]))

    def plan(self, plan: Plan) -> Plan:
        """Return a plan with this guidance, for `fewstep.solver.step` or a `Guide`.

        Parameters
        ----------
        plan : Plan
            Without guidance.

        Returns
        -------
        Plan
            Rows at which the conditional output alone counts combine one output.
        """
        weights = np.broadcast_to(self.weights(plan), (len(plan), self.n))
        alone = (weights[:, 0] == 1.0) & (weights[:, 1:] == 0.0).all(1)
        rows = [
            row.replace(gamma=(1.0,)) if one and row.evaluates else row
            for row, one in zip(plan.with_guidance(weights).rows, alone, strict=True)
        ]
        return type(plan).from_rows(rows, plan.name)

    @property
    def needs_gram(self) -> bool:
        """Whether each step's weights follow from its outputs."""
        return False

    def weigh(self, gram: Any, row: Row) -> Any:
        """Return the weights of a step whose outputs have this Gram matrix.

        Parameters
        ----------
        gram : array, shape (B, n + 1, n + 1), float64
        row : Row

        Returns
        -------
        array, shape (B, n), float32

        Raises
        ------
        TypeError
            The guidance's weights do not follow from the outputs.
        """
        raise TypeError(f"{type(self).__name__}: 'needs_gram' must be True, got False")


@dataclass(frozen=True)
class ComposedGuidance(Guidance):
    """Fixed weights over up to 4 outputs; made by `compose` and `instruct`.

    Attributes
    ----------
    fixed : tuple of float
        The weights, in the order of the model's outputs.
    """

    fixed: tuple[float, ...] = ()

    def weights(self, plan: Plan) -> NDArray[np.float64]:
        """Return `fixed`, or the first output alone outside the interval."""
        return outside(plan, self.interval, np.array([self.fixed]))


@dataclass(frozen=True)
class ClassifierGuidance(Guidance):
    """A gradient as the last output; made by `classifier`.

    Attributes
    ----------
    strength : float
        Weight of the gradient.
    """

    strength: float = 0.0

    def weights(self, plan: Plan) -> NDArray[np.float64]:
        """Return the weights of the outputs and of the gradient for each row."""
        first = [1.0] if self.n == 2 else [self.scale, 1.0 - self.scale]
        rows = []
        for row in plan.rows:
            # x0 moves by strength sigma^2 / alpha grad, and the output is (x0 - p x) / q.
            known = row.evaluates and row.alpha != 0.0 and row.q != 0.0
            gain = self.strength * row.sigma**2 / (row.alpha * row.q) if known else 0.0
            rows.append([*first, gain])
        return outside(plan, self.interval, np.array(rows))


@dataclass(frozen=True)
class GramGuidance(Guidance):
    """Weights that follow from the outputs; made by `cfg_rescale`, `apg`, and others.

    Attributes
    ----------
    momentum : float
        Weight of the running difference of the outputs, which `Guide` keeps and the step combines
        with the outputs.
    zero_init : int
        First steps of the plan at which the model's output is taken for zero.
    method : callable
        From a Gram matrix to weights; see `weigh`.
    """

    momentum: float = 0.0
    zero_init: int = 0
    method: Callable[[Any], Any] | None = field(default=None, repr=False)

    def weights(self, plan: Plan) -> NDArray[np.float64]:
        """Return weights that say what each row needs, for `Plan.with_guidance`.

        Returns
        -------
        array, shape (rows, n), float64
            Plain guidance where a step's weights are to follow from its outputs, the conditional
            output alone outside the interval, zeros at the first `zero_init` steps.
        """
        guided = np.zeros((1, self.n))
        guided[0, :2] = self.scale, 1.0 - self.scale
        weights = np.array(
            np.broadcast_to(outside(plan, self.interval, guided), (len(plan), self.n))
        )
        weights[np.array([row.step for row in plan.rows]) < self.zero_init] = 0.0
        return weights

    @property
    def needs_gram(self) -> bool:
        """Whether each step's weights follow from its outputs: True."""
        return True

    def weigh(self, gram: Any, row: Row) -> Any:
        """Return the weights of a step.

        Parameters
        ----------
        gram : array, shape (B, 3, 3) or (B, 4, 4), float64
            `fewstep.solver.gram` of the conditional and the unconditional output and, with
            `momentum`, the running difference.
        row : Row
            Of the plan; its step decides about `zero_init`.

        Returns
        -------
        array, shape (B, 2) or (B, 3), float32
            For ``guidance`` of `fewstep.solver.step`.
        """
        assert self.method is not None
        weights = self.method(gram)
        if row.step >= self.zero_init:
            return weights
        weights[:] = 0.0  # outputs that are not finite must not matter
        return weights


def outside(
    plan: Plan, interval: tuple[float, float] | None, guided: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weights, with the first output alone at rows outside an interval."""
    if interval is None:
        return guided
    low, high = interval
    alphas, sigmas = np.asarray(plan.alphas), np.asarray(plan.sigmas)
    # Compared as products: alpha is 0 where a schedule ends in pure noise.
    inside = (low * alphas < sigmas) & ((sigmas <= high * alphas) | math.isinf(high))
    alone = np.zeros(guided.shape[1])
    alone[0] = 1.0
    return np.where(inside[:, None], guided, alone)


def checked(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number in a range."""
    function, _, argument = name.partition(".")
    if not (math.isfinite(value) and low <= value <= high):
        bounds = "be finite"
        if low > -math.inf:
            bounds = f"lie in [{low:g}, {high:g}]" if high < math.inf else f"be {low:g} or more"
        raise ValueError(f"{function}: '{argument}' must {bounds}, got {value}")
    return float(value)


def checked_interval(
    function: str, interval: tuple[float, float] | None
) -> tuple[float, float] | None:
    if interval is None:
        return None
    if len(interval) != 2 or not 0.0 <= interval[0] < interval[1]:
        raise ValueError(f"{function}: 'interval' must be 0 <= low < high, got {interval}")
    return float(interval[0]), float(interval[1])
