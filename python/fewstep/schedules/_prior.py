# SPDX-License-Identifier: Apache-2.0
"""Processes that lead to a tensor y that the caller knows, instead of to noise alone."""

from __future__ import annotations

from math import nan
from typing import Literal

from ._schedule import Schedule, make


def ornstein_uhlenbeck(
    stiffness: float = 1.5,
    sigma_min: float = 0.05,
    sigma_max: float = 0.5,
    *,
    t_min: float = 0.03,
    t_max: float = nan,
    final_zero: bool = True,
) -> Schedule:
    """Revert to y while noise grows exponentially (SGMSE+): nodes uniform in time.

    ``dx = stiffness * (y - x) dt + g dw`` with ``g = sigma_min * k**t * sqrt(2 * log(k))`` and
    ``k = sigma_max / sigma_min``; ``x = alpha * x0 + (1 - alpha) * y + sigma * noise``.

    Parameters
    ----------
    stiffness : float
        Rate at which x reverts to y.
    sigma_min, sigma_max : float
        Parameters of g, above 0.
    t_min, t_max : float
        Last time before zero noise, and first time, 1 by default.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule
        Its model time is t. Plans on it need ``Sampler(..., prior=y)``.

    References
    ----------
    .. [1] Richter et al., "Speech Enhancement and Dereverberation with Diffusion-based Generative
       Models", arXiv 2208.05830, eq. 6 to 9

    Examples
    --------
    >>> nodes = fewstep.schedules.ornstein_uhlenbeck().nodes(4)
    >>> (nodes.alpha + nodes.prior).round(12).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    return make(
        "ornstein_uhlenbeck", stiffness=stiffness, sigma_min=sigma_min, sigma_max=sigma_max,
        t_min=t_min, t_max=t_max, final_zero=final_zero,
    )  # fmt: skip


def mean_reverting(
    sigma: float = 10.0 / 255.0,
    *,
    alpha_min: float = 0.005,
    train_steps: int = 100,
    final_zero: bool = True,
) -> Schedule:
    """Revert to y in discrete time with noise of stationary variance (IR-SDE).

    ``x = alpha * x0 + (1 - alpha) * y + sqrt(1 - alpha**2) * sigma * noise``; alpha follows the
    cosine schedule of the authors.

    Parameters
    ----------
    sigma : float
        Deviation that the noise tends to, in the units of x.
    alpha_min : float
        Signal left at the last training step.
    train_steps : int
        Number of training steps; nodes are evenly spaced over them.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule
        Its model time is the training step, ``train_steps`` at first. Plans on it need
        ``Sampler(..., prior=y)``.

    References
    ----------
    .. [1] Luo et al., "Image Restoration with Mean-Reverting Stochastic Differential Equations",
       arXiv 2301.11699
    .. [2] Li et al., "MRS: A Fast Sampler for Mean Reverting Diffusion based on ODE and SDE
       Solvers", arXiv 2502.07856

    Examples
    --------
    >>> fewstep.schedules.mean_reverting().nodes(4).t.tolist()
    [100.0, 75.0, 50.0, 25.0, 0.0]
    """
    return make(
        "mean_reverting", sigma_max=sigma, alpha_min=alpha_min, train_steps=train_steps,
        final_zero=final_zero,
    )  # fmt: skip


def bridge(
    kind: Literal["gmax", "vp"] = "gmax",
    beta_min: float = 0.01,
    beta_max: float = 50.0,
    *,
    t_min: float = 1e-4,
    t_max: float = nan,
    final_zero: bool = True,
) -> Schedule:
    """Bridge from y to data (Bridge-TTS): nodes uniform in time.

    With ``s = sigma_t**2 / sigma_1**2``, x over the process's own scale ``a_t`` has the weights
    ``1 - s`` of x0, ``s / a_1`` of y and ``sigma_t * sqrt(1 - s)`` of noise.

    Parameters
    ----------
    kind : {"gmax", "vp"}
        ``"gmax"``: no drift, ``sigma_t**2`` is the integral of beta. ``"vp"``: drift ``-beta / 2``.
    beta_min, beta_max : float
        beta at t = 0 and t = 1.
    t_min, t_max : float
        Last time before zero noise, and first time, below 1 (0.9999 by default): at 1 only y is
        left.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule
        Its model time is t. Plans on it need ``Sampler(..., prior=y)``.

    References
    ----------
    .. [1] Chen et al., "Schrodinger Bridges Beat Diffusion Models on Text-to-Speech Synthesis",
       arXiv 2312.03491, table 1 and section 3.4

    Examples
    --------
    >>> nodes = fewstep.schedules.bridge().nodes(4)
    >>> bool(nodes.prior[0] > 0.999), float(nodes.prior[-1])
    (True, 0.0)
    """
    return make(
        "bridge", spacing=kind, beta_start=beta_min, beta_end=beta_max, t_min=t_min, t_max=t_max,
        final_zero=final_zero,
    )  # fmt: skip
