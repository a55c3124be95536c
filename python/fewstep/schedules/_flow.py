# SPDX-License-Identifier: Apache-2.0
"""Rectified flow: uniform sigma, shifted, stretched or respaced."""

from __future__ import annotations

from math import exp, isfinite, nan, sqrt
from typing import Literal

from ._schedule import Schedule, make

FlowSpacing = Literal["linspace", "beta", "linear_quadratic", "karras", "exponential", "beta_sigma"]


def flow(
    shift: float = 1.0,
    *,
    sigma_min: float = nan,
    sigma_max: float = 1.0,
    terminal: float = nan,
    spacing: FlowSpacing = "linspace",
    rho: float = 7.0,
    beta_a: float = 0.6,
    beta_b: float = 0.6,
    threshold: float = 0.025,
    linear_steps: int = 0,
    final_zero: bool = True,
) -> Schedule:
    """Rectified flow: sigma uniform, then shifted to ``shift * sigma / (1 + (shift - 1) * sigma)``.

    Parameters
    ----------
    shift : float
        Above 0; above 1 puts more nodes at high noise (3 for SD3, larger for larger images); see
        `dynamic_shift` and `resolution_shift`.
    sigma_min, sigma_max : float
        Ends of the uniform nodes before the shift. Without `sigma_min` they run evenly down to 0.
    terminal : float, optional
        sigma of the last node before zero, between 0 and 1: ``1 - sigma`` is stretched to it after
        the shift (LTX-Video).
    spacing : str
        Of sigma before the shift: ``"linspace"``, ``"beta"`` (quantiles of Beta(`beta_a`,
        `beta_b`)), ``"linear_quadratic"`` (with `threshold` and `linear_steps`). Of the range that
        shift and `terminal` leave: ``"karras"`` (with `rho`), ``"exponential"``, ``"beta_sigma"``.
    rho, beta_a, beta_b : float
        Of these spacings.
    threshold : float
        Noise that the linear part of ``"linear_quadratic"`` removes, between 0 and 1.
    linear_steps : int
        Its number of steps; 0 for half of all.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
       arXiv 2403.03206, eq. 23
    .. [2] Polyak et al., "Movie Gen", arXiv 2410.13720, section 3.4.2 (linear-quadratic)

    Examples
    --------
    >>> fewstep.schedules.flow(3.0).nodes(4).sigma.round(4).tolist()
    [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    return make(
        "flow", shift=shift, sigma_min=sigma_min, sigma_max=sigma_max, final_zero=final_zero,
        terminal=terminal, spacing=spacing, rho=rho, beta_a=beta_a, beta_b=beta_b,
        threshold=threshold, linear_steps=linear_steps,
    )  # fmt: skip


def linear_quadratic(
    threshold: float = 0.025, linear_steps: int = 0, *, final_zero: bool = True
) -> Schedule:
    """Rectified flow whose first steps are small and even and whose last ones grow as a square.

    Parameters
    ----------
    threshold : float
        Noise that the linear part removes, between 0 and 1.
    linear_steps : int
        Its number of steps; 0 for half of all.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Polyak et al., "Movie Gen", arXiv 2410.13720, section 3.4.2

    Examples
    --------
    >>> fewstep.schedules.linear_quadratic(0.2).nodes(4).sigma.round(4).tolist()
    [1.0, 0.9, 0.8, 0.55, 0.0]
    """
    return flow(
        spacing="linear_quadratic", threshold=threshold, linear_steps=linear_steps,
        final_zero=final_zero,
    )  # fmt: skip


def dynamic_shift(
    tokens: float,
    *,
    base_tokens: float = 256,
    max_tokens: float = 4096,
    base: float = 0.5,
    max: float = 1.15,
    kind: Literal["exponential", "linear"] = "exponential",
) -> float:
    """Return `flow`'s shift for an image of so many tokens.

    ``mu`` is the line through (base_tokens, base) and (max_tokens, max). The time shift
    ``e / (e + 1 / sigma - 1)`` with ``e = exp(mu)`` ("exponential") or ``e = mu`` ("linear") is
    `flow`'s with ``shift = e``.

    Parameters
    ----------
    tokens : float
        Length of the transformer's image sequence.
    base_tokens, max_tokens, base, max : float
        The line; the defaults are those of Flux.
    kind : {"exponential", "linear"}

    Returns
    -------
    float

    Raises
    ------
    ValueError
        `kind` is something else, or the shift is not positive.

    Examples
    --------
    >>> round(fewstep.schedules.dynamic_shift(4096), 4)
    3.1582
    """
    mu = base + (max - base) * (tokens - base_tokens) / (max_tokens - base_tokens)
    if kind not in ("exponential", "linear"):
        raise ValueError(
            f"fewstep.schedules.dynamic_shift: 'kind' must be exponential or linear, got {kind!r}"
        )
    shift = exp(mu) if kind == "exponential" else mu
    if not (isfinite(shift) and shift > 0):
        raise ValueError(
            f"fewstep.schedules.dynamic_shift: 'tokens' must give a positive shift, got {tokens}"
        )
    return shift


def resolution_shift(pixels: float, base_pixels: float, shift: float = 1.0) -> float:
    """Return `flow`'s shift for another resolution: the same image keeps the same signal.

    Parameters
    ----------
    pixels, base_pixels : float
        Number of pixels (or tokens) now, and of the resolution that `shift` is for.
    shift : float
        At `base_pixels`.

    Returns
    -------
    float
        ``shift * sqrt(pixels / base_pixels)``.

    References
    ----------
    .. [1] Esser et al., arXiv 2403.03206, eq. 23

    Examples
    --------
    >>> fewstep.schedules.resolution_shift(1024**2, 512**2, 1.5)
    3.0
    """
    return shift * sqrt(pixels / base_pixels)
