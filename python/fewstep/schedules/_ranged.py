# SPDX-License-Identifier: Apache-2.0
"""Schedules over a range of noise levels, and of any array of them."""

from __future__ import annotations

from math import nan

from numpy.typing import ArrayLike

from ._schedule import Process, Schedule, as_floats, make, process_index


def karras(
    sigma_min: float = nan,
    sigma_max: float = nan,
    *,
    rho: float = 7.0,
    process: Process = "ve",
    final_zero: bool = True,
) -> Schedule:
    """Nodes uniform in ``sigma ** (1 / rho)`` (EDM).

    Parameters
    ----------
    sigma_min, sigma_max : float
        Range of sigma / alpha (VP, VE) or sigma (flow). By default 0.002 to 80, for flow 0.002
        to 1.
    rho : float
        Above 0; larger puts more nodes at low noise.
    process : {"ve", "vp", "flow"}
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
       arXiv 2206.00364, eq. 5

    Examples
    --------
    >>> fewstep.schedules.karras(0.02, 80.0).nodes(2).sigma.tolist()
    [80.0, 0.02, 0.0]
    """
    return make(
        "karras", sigma_min=sigma_min, sigma_max=sigma_max, rho=rho,
        process=process_index("karras", process), final_zero=final_zero,
    )  # fmt: skip


def exponential(
    sigma_min: float = nan,
    sigma_max: float = nan,
    *,
    process: Process = "ve",
    final_zero: bool = True,
) -> Schedule:
    """Nodes uniform in ``log(sigma)``.

    Parameters and result are those of `karras`, without `rho`.

    Examples
    --------
    >>> fewstep.schedules.exponential(0.01, 1.0).nodes(3).sigma.round(6).tolist()
    [1.0, 0.1, 0.01, 0.0]
    """
    return make(
        "exponential", sigma_min=sigma_min, sigma_max=sigma_max,
        process=process_index("exponential", process), final_zero=final_zero,
    )  # fmt: skip


def log_snr(
    sigma_min: float = nan,
    sigma_max: float = nan,
    *,
    process: Process = "ve",
    final_zero: bool = True,
) -> Schedule:
    """Nodes uniform in ``lam = log(alpha / sigma)``, the natural grid of DPM-Solver.

    Parameters and result are those of `karras`, without `rho`; for flow, `sigma_max` must be given,
    below 1.

    References
    ----------
    .. [1] Lu et al., "DPM-Solver", arXiv 2206.00927, section 3.3

    Examples
    --------
    >>> fewstep.schedules.log_snr(0.1, 0.9, process="flow").nodes(3).sigma.round(6).tolist()
    [0.9, 0.5, 0.1, 0.0]
    """
    return make(
        "log_snr", sigma_min=sigma_min, sigma_max=sigma_max,
        process=process_index("log_snr", process), final_zero=final_zero,
    )  # fmt: skip


def polynomial(
    rho: float,
    sigma_min: float = nan,
    sigma_max: float = nan,
    *,
    process: Process = "ve",
    final_zero: bool = True,
) -> Schedule:
    """Nodes uniform in ``sigma ** (1 / rho)``: `karras` with the exponent first.

    Parameters and result are those of `karras`. `rho` 1 spaces sigma evenly.

    Examples
    --------
    >>> fewstep.schedules.polynomial(1.0, 1.0, 3.0).nodes(3).sigma.tolist()
    [3.0, 2.0, 1.0, 0.0]
    """
    return karras(sigma_min, sigma_max, rho=rho, process=process, final_zero=final_zero)


def polyexponential(
    sigma_min: float = nan,
    sigma_max: float = nan,
    *,
    rho: float = 1.0,
    process: Process = "ve",
    final_zero: bool = True,
) -> Schedule:
    """Nodes at ``log(sigma_min) + (1 - u) ** rho * log(sigma_max / sigma_min)``, u even in [0, 1].

    Parameters and result are those of `karras`; with `rho` 1 it is `exponential`, above 1 more
    nodes are at low noise.

    References
    ----------
    .. [1] Crowson, k-diffusion, ``get_sigmas_polyexponential``

    Examples
    --------
    >>> fewstep.schedules.polyexponential(1.0, 16.0, rho=2.0).nodes(3).sigma.round(6).tolist()
    [16.0, 2.0, 1.0, 0.0]
    """
    return make(
        "polyexponential", sigma_min=sigma_min, sigma_max=sigma_max, rho=rho,
        process=process_index("polyexponential", process), final_zero=final_zero,
    )  # fmt: skip


def kl_optimal(
    sigma_min: float = nan,
    sigma_max: float = nan,
    *,
    process: Process = "ve",
    final_zero: bool = True,
) -> Schedule:
    """Nodes uniform in ``atan(sigma)``: least KL bound for Gaussian data of unit variance.

    Parameters and result are those of `karras`, without `rho`.

    References
    ----------
    .. [1] Sabour, Fidler, Kreis, "Align Your Steps: Optimizing Sampling Schedules in Diffusion
       Models", arXiv 2404.14507, theorem 3.1

    Examples
    --------
    >>> nodes = fewstep.schedules.kl_optimal(0.1, 10.0).nodes(3)
    >>> nodes.sigma.round(6).tolist()
    [10.0, 1.0, 0.1, 0.0]
    """
    return make(
        "kl_optimal", sigma_min=sigma_min, sigma_max=sigma_max,
        process=process_index("kl_optimal", process), final_zero=final_zero,
    )  # fmt: skip


def beta(
    sigma_min: float = nan,
    sigma_max: float = nan,
    *,
    a: float = 0.6,
    b: float = 0.6,
    process: Process = "ve",
    final_zero: bool = True,
) -> Schedule:
    """Nodes at the quantiles of a Beta distribution over the range of sigma.

    Parameters and result are those of `karras`, without `rho`. On a training grid, spacing
    ``"beta"`` takes the quantiles of the training step, which is the published rule.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Range, as for `karras`.
    a, b : float
        Of the Beta distribution, above 0; below 1 both ends get more nodes.
    process : {"ve", "vp", "flow"}
    final_zero : bool
        End at ``sigma = 0``.

    References
    ----------
    .. [1] Lee et al., "Beta Sampling is All You Need: Efficient Image Generation Strategy for
       Diffusion Models using Stepwise Spectral Analysis", arXiv 2407.12173

    Examples
    --------
    >>> fewstep.schedules.beta(1.0, 3.0, a=1.0, b=1.0).nodes(3).sigma.round(6).tolist()
    [3.0, 2.0, 1.0, 0.0]
    """
    return make(
        "beta", sigma_min=sigma_min, sigma_max=sigma_max, beta_a=a, beta_b=b,
        process=process_index("beta", process), final_zero=final_zero,
    )  # fmt: skip


def vp_sde(
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    *,
    t_min: float = 1e-3,
    rho: float = 1.0,
    final_zero: bool = True,
) -> Schedule:
    """Continuous-time VP with linear beta, nodes uniform in ``t ** (1 / rho)``.

    Parameters
    ----------
    beta_min, beta_max : float
        beta at t = 0 and t = 1.
    t_min : float
        Last time before zero noise, between 0 and 1; the first is 1.
    rho : float
        1 spaces time evenly, 2 is the quadratic spacing of DEIS.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule
        Its model time is t.

    References
    ----------
    .. [1] Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
       arXiv 2011.13456, eq. 33
    .. [2] Zhang, Chen, arXiv 2204.13902, section 4

    Examples
    --------
    >>> fewstep.schedules.vp_sde(t_min=0.25).nodes(4).t.tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return make(
        "vp_sde", beta_start=beta_min, beta_end=beta_max, t_min=t_min, rho=rho,
        final_zero=final_zero,
    )  # fmt: skip


def sigmas(values: ArrayLike, *, process: Process = "ve") -> Schedule:
    """Any nodes.

    Parameters
    ----------
    values : array, shape (steps + 1)
        sigma / alpha (VP, VE) or sigma (flow), strictly decreasing; the last may be 0.
    process : {"ve", "vp", "flow"}

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        When nodes are placed: two are equal or out of order, or one is not finite.

    Examples
    --------
    >>> fewstep.schedules.sigmas([10.0, 2.0, 0.0]).nodes().lam.round(3).tolist()
    [-2.303, -0.693, inf]
    """
    array = as_floats(values)
    assert array is not None
    return make("sigmas", len(array) - 1, sigmas=array, process=process_index("sigmas", process))


def log_linear(table: ArrayLike, *, process: Process = "ve", final_zero: bool = True) -> Schedule:
    """A table of noise levels resampled to any number of steps, log(sigma) linear in the index.

    Parameters
    ----------
    table : array, shape (2 or more)
        sigma / alpha (VP, VE) or sigma (flow), strictly decreasing, above 0.
    process : {"ve", "vp", "flow"}
    final_zero : bool
        Replace the last of the ``steps + 1`` values by 0.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> fewstep.schedules.log_linear([16.0, 1.0]).nodes(4).sigma.round(6).tolist()
    [16.0, 8.0, 4.0, 2.0, 0.0]
    """
    return make(
        "log_linear", sigmas=as_floats(table), process=process_index("log_linear", process),
        final_zero=final_zero,
    )  # fmt: skip
