# SPDX-License-Identifier: Apache-2.0
"""How adaptive steps follow from errors; `fewstep.adaptive` re-exports it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PID:
    """Step-size controller: the next step is the last one times a function of past errors.

    With e the scaled error of a step (1 is the tolerance), e_1 and e_2 those accepted before, and
    q the order, ``factor = 1 + atan(e**-a e_1**-b e_2**-c - 1)`` with ``a = (p + i + d) / q``,
    ``b = -(p + 2 d) / q``, ``c = d / q``; the step counts if the factor is at least `accept`.

    Attributes
    ----------
    p, i, d : float
        Proportional, integral and differential gain; (0, 1, 0) is the elementary controller.
    accept : float
        Factor from which a step is accepted: 0.81 allows an error slightly above the tolerance.

    References
    ----------
    .. [1] Soderlind, "Digital filters in adaptive time-stepping", 2003
    .. [2] k-diffusion, PIDStepSizeController

    Examples
    --------
    >>> factor, accepted = fewstep.adaptive.PID().propose(1.0, [], order=3)
    >>> round(factor, 6), accepted
    (1.0, True)
    """

    p: float = 0.0
    i: float = 1.0
    d: float = 0.0
    accept: float = 0.81

    def propose(self, error: float, past: Sequence[float], *, order: int) -> tuple[float, bool]:
        """Return the factor of the next step, and whether the last one counts.

        Parameters
        ----------
        error : float
            Scaled error of the step.
        past : sequence of float
            Errors of the steps accepted before, newest first; up to two are used.
        order : int
            Order of the higher solution.

        Returns
        -------
        tuple of float and bool
        """
        if not math.isfinite(error):
            return 0.25, False
        inverse = [1.0 / (e + 1e-8) for e in (error, *past[:2])]
        inverse += [inverse[-1]] * (3 - len(inverse))
        gains = (self.p + self.i + self.d, -(self.p + 2 * self.d), self.d)
        raw = math.prod(v ** (g / order) for v, g in zip(inverse, gains, strict=True))
        factor = 1.0 + math.atan(raw - 1.0)
        return factor, factor >= self.accept
