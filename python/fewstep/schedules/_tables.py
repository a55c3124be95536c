# SPDX-License-Identifier: Apache-2.0
"""Schedules that were found by optimisation and published as tables."""

from __future__ import annotations

from typing import Literal

from ._discrete import scaled_linear
from ._ranged import log_linear
from ._schedule import Schedule

# Sabour, Fidler, Kreis 2024, arXiv 2404.14507: sigma / alpha of the published 10-step schedules.
_AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def ays(model: Literal["sd15", "sdxl", "svd"], *, final_zero: bool = True) -> Schedule:
    """Align Your Steps: the published 10-step schedules, log-linear for other numbers of steps.

    Parameters
    ----------
    model : {"sd15", "sdxl", "svd"}
        Stable Diffusion 1.5, Stable Diffusion XL (both on the training grid of `scaled_linear`),
        Stable Video Diffusion (VE).
    final_zero : bool
        Replace the last value by 0.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        `model` is something else.

    References
    ----------
    .. [1] Sabour, Fidler, Kreis, "Align Your Steps: Optimizing Sampling Schedules in Diffusion
       Models", arXiv 2404.14507

    Examples
    --------
    >>> nodes = fewstep.schedules.ays("svd").nodes(10)
    >>> nodes.sigma[:3].tolist()
    [700.0, 54.5, 15.886]
    """
    if model not in _AYS:
        raise ValueError(
            f"fewstep.schedules.ays: 'model' must be one of {', '.join(_AYS)}, got {model!r}"
        )
    if model == "svd":
        return log_linear(_AYS[model], final_zero=final_zero)
    return scaled_linear(spacing="log_linear", sigmas=_AYS[model], final_zero=final_zero)
