# SPDX-License-Identifier: Apache-2.0
"""The exact samples of the demo's network: a float64 solution of the probability-flow ODE."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .network import Denoiser
from .problem import SIGMA_MAX, SIGMA_MIN

Array = NDArray[Any]

TOLERANCE = 1e-8
"""Relative and absolute, per step: far below the float32 network's rounding of about 1e-6."""


def solve(start: Array, labels: Array, scale: float) -> Array:
    """Integrate the probability-flow ODE from pure noise to clean images.

    ``dx / dln(sigma) = x - D(x, sigma)``, from `SIGMA_MAX` down to `SIGMA_MIN`, where the
    denoiser's output is the result: every solver's last step, to zero noise, does the same.

    Parameters
    ----------
    start : array, shape (B, 64), float
        Samples at `SIGMA_MAX`.
    labels : array, shape (B,), integer
        Digits.
    scale : float
        Guidance scale.

    Returns
    -------
    array, shape (B, 64), float64

    Notes
    -----
    Scipy's DOP853 (Dormand, Prince, order 8) with tolerances `TOLERANCE`, on the float64 network.
    """
    from scipy.integrate import solve_ivp

    net = Denoiser(np.float64)
    shape = start.shape

    def slope(log_sigma: float, flat: Array) -> Array:
        x = flat.reshape(shape)
        return np.asarray((x - net.denoise(x, np.exp(log_sigma), labels, scale)).ravel())

    span = (np.log(SIGMA_MAX), np.log(SIGMA_MIN))
    flat = np.asarray(start, np.float64).ravel()
    result = solve_ivp(slope, span, flat, "DOP853", rtol=TOLERANCE, atol=TOLERANCE)
    if not result.success:
        raise RuntimeError(f"solve: DOP853 failed: {result.message}")
    return net.denoise(result.y[:, -1].reshape(shape), SIGMA_MIN, labels, scale)
