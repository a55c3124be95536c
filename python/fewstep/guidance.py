# SPDX-License-Identifier: Apache-2.0
"""Guidance: how several model outputs become one.

A guidance says how many outputs a step combines and gives each row of a plan its weights. The step
itself applies them (``g = sum_j gamma_j M_j``), so guidance costs no pass over memory of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .solver import Plan

__all__ = ["Guidance", "cfg"]


@dataclass(frozen=True)
class Guidance:
    """Weights over a model's conditional and unconditional output; made by `cfg`.

    Attributes
    ----------
    scale : float
        Weight of the conditional output where guidance is on.
    interval : tuple of two floats, or None
        Noise levels ``low < sigma / alpha <= high`` at which guidance is on; None for all.
    n : int
        Number of model outputs that a step combines: 2.
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
        if self.interval is None:
            return np.array([guided])
        low, high = self.interval
        alphas, sigmas = np.asarray(plan.alphas), np.asarray(plan.sigmas)
        # Compared as products: alpha is 0 where a schedule ends in pure noise.
        inside = (low * alphas < sigmas) & ((sigmas <= high * alphas) | math.isinf(high))
        return np.where(inside[:, None], guided, [1.0, 0.0])


def cfg(scale: float, interval: tuple[float, float] | None = None) -> Guidance:
    """Guide a conditional model away from its unconditional output.

    ``g = scale * conditional + (1 - scale) * unconditional``: 0 is unconditional, 1 conditional,
    more sharpens the condition.

    Parameters
    ----------
    scale : float
        Guidance scale, finite.
    interval : tuple of two floats, optional
        ``(low, high)`` in units of sigma / alpha: guidance is on at noise levels in
        ``(low, high]`` and the conditional output is used alone elsewhere; ``high`` may be
        infinite.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        `scale` is not finite, or `interval` is not increasing and non-negative.

    References
    ----------
    .. [1] Ho, Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598, eq. 6 with
       ``w = scale - 1``.
    .. [2] Kynkaanniemi et al., "Applying guidance in a limited interval improves sample and
       distribution quality in diffusion models", arXiv 2404.07724.

    Examples
    --------
    >>> cfg(4.0)
    Guidance(scale=4.0, interval=None, n=2)
    """
    if not math.isfinite(scale):
        raise ValueError(f"cfg: 'scale' must be finite, got {scale}")
    if interval is not None:
        if len(interval) != 2 or not 0.0 <= interval[0] < interval[1]:
            raise ValueError(f"cfg: 'interval' must be 0 <= low < high, got {interval}")
        interval = (float(interval[0]), float(interval[1]))
    return Guidance(float(scale), interval)
