# SPDX-License-Identifier: Apache-2.0
"""Schedules that were found by optimisation and published as tables."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

from fewstep import _core

from ._discrete import scaled_linear
from ._ranged import log_linear
from ._schedule import Schedule

# Sabour, Fidler, Kreis 2024, arXiv 2404.14507: sigma / alpha of the published 10-step schedules.
_AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}

# Chen et al. 2024, arXiv 2405.11326, for Stable Diffusion 1.5 with coefficient 1.2: a row for each
# number of steps from 2 to 20. Letters number the levels.
_GITS_LEVELS = (
    14.61464119, 7.49001646, 6.77309084, 5.85520077, 4.65472794, 3.46139455, 3.07277966,
    2.95596409, 2.84484982, 2.45070267, 2.36326075, 2.19988537, 2.12350607, 2.05039096,
    1.98035145, 1.84880662, 1.67050016, 1.61558151, 1.56271636, 1.51179266, 1.36964464,
    1.24153244, 1.20157266, 1.162866, 1.08895338, 0.95350921, 0.92192322, 0.86115354, 0.83188516,
    0.803307, 0.74807048, 0.72133851, 0.69515091, 0.64427125, 0.59516323, 0.57119018, 0.52423614,
    0.50118381, 0.4783645, 0.45573691, 0.41087446, 0.38853383, 0.36617002, 0.34370604, 0.32104823,
    0.29807833, 0.27464288, 0.25053367, 0.22545385, 0.19894916, 0.17026083, 0.13792117,
    0.09824532, 0.02916753,
)  # fmt: skip
_GITS_ROWS = (
    "Ad1 ASk1 AKaq1 AIViv1 ADNZny1 ADJVht01 ADJUdnv01 ADIRZiqx01 ADIQYelsx01 ADHPVciouy01 "
    "ADGOUZglqvy01 ACFKSYdinrvy01 ACFJRXbhlptwy01 ABEGMTYchlptwy01 ABEGMTYchlosvxz01 "
    "ABEGMTYchloruwyz01 ABEGLRWafjnqtvxyz01 ABEGLRVZeimpsuwxyz01 ABEGLRVZeilortvwxyz01"
)


@dataclass(frozen=True)
class _StepTables(Schedule):
    """A schedule with a table of its own for some numbers of steps."""

    tables: tuple[tuple[float, ...], ...] = ()

    def _create(self, steps: int | None) -> _core.Schedule:
        table = self.tables[-1]
        for candidate in self.tables:
            if steps is not None and len(candidate) == steps + 1:
                table = candidate
        final_zero = dict(self.params)["final_zero"]
        own = scaled_linear(spacing="log_linear", sigmas=table, final_zero=final_zero)
        return own._create(steps)


def gits(*, final_zero: bool = True) -> Schedule:
    """Geometry-inspired schedules of Stable Diffusion 1.5: a published table for 2 to 20 steps.

    More steps than 20, or 1, are the longest table resampled log-linearly. `fewstep.search.gits`
    finds such a schedule for any model.

    Parameters
    ----------
    final_zero : bool
        Replace the last value by 0.

    Returns
    -------
    Schedule
        On the training grid of `scaled_linear`.

    References
    ----------
    .. [1] Chen et al., "On the Trajectory Regularity of ODE-based Diffusion Sampling",
       arXiv 2405.11326

    Examples
    --------
    >>> nodes = fewstep.schedules.gits().nodes(3)
    >>> (nodes.sigma / nodes.alpha).round(4).tolist()
    [14.6146, 1.5627, 0.5242, 0.0]
    """
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits
    tables = tuple(
        tuple(_GITS_LEVELS[letters.index(letter)] for letter in row) for row in _GITS_ROWS.split()
    )
    params = dict(scaled_linear().params) | {"final_zero": final_zero}
    return _StepTables("scaled_linear", tuple(sorted(params.items())), None, tables)


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
