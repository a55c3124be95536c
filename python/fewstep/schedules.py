# SPDX-License-Identifier: Apache-2.0
"""Where a trajectory's nodes lie: noise schedules as data, evaluated in float64.

A sample is ``x = alpha * x0 + sigma * noise``; ``lam = log(alpha / sigma)``. The process tells
how alpha and sigma belong together: VP ``alpha**2 + sigma**2 = 1``, VE ``alpha = 1``, flow
``alpha + sigma = 1``. Each function here returns a `Schedule`: a name and its parameters, from
which `fewstep.solver.plan` places as many nodes as it has steps, from noise to data.

With ``final_zero`` (the default) the last node is ``sigma = 0`` and comes after ``steps`` nodes of
the schedule; without it, the schedule places ``steps + 1`` nodes.
"""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fewstep._schedule import PROCESSES as PROCESSES
from fewstep._schedule import Nodes as Nodes
from fewstep._schedule import Process as Process
from fewstep._schedule import Schedule as Schedule
from fewstep._schedule import Spacing as Spacing

__all__ = [
    "Nodes",
    "Schedule",
    "cosine",
    "exponential",
    "flow",
    "karras",
    "log_snr",
    "scaled_linear",
    "sigmas",
    "vp_linear",
]


def _process(function: str, process: str) -> int:
    if process not in PROCESSES:
        raise ValueError(
            f"fewstep.schedules.{function}: 'process' must be one of vp, ve, flow, got {process!r}"
        )
    return PROCESSES.index(process)


def _make(name: str, default_steps: int | None = None, /, **params: Any) -> Schedule:
    return Schedule(name, tuple(sorted(params.items())), default_steps)


def _array(sigmas: ArrayLike | None) -> tuple[float, ...] | None:
    return None if sigmas is None else tuple(np.asarray(sigmas, np.float64).ravel().tolist())


def _training_grid(
    name: str,
    spacing: Spacing,
    rho: float,
    steps_offset: int,
    sigmas: ArrayLike | None,
    final_zero: bool,
    **params: Any,
) -> Schedule:
    values = _array(sigmas)
    if values is not None:
        spacing, params["sigmas"] = "sigmas", values
    return _make(
        name,
        None if values is None else len(values) - 1,
        spacing=spacing,
        rho=rho,
        steps_offset=steps_offset,
        final_zero=final_zero,
        **params,
    )


def vp_linear(
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    *,
    train_steps: int = 1000,
    spacing: Spacing = "linspace",
    rho: float = 7.0,
    steps_offset: int = 0,
    sigmas: ArrayLike | None = None,
    final_zero: bool = True,
) -> Schedule:
    """Discrete-time VP with linear betas (DDPM).

    Parameters
    ----------
    beta_start, beta_end : float
        First and last beta, between 0 and 1.
    train_steps : int
        Number of training steps; the model is told a training step.
    spacing : str
        Where the nodes lie. At training steps: ``"linspace"`` (first and last included),
        ``"leading"`` (multiples of ``train_steps // n``, plus `steps_offset`), ``"trailing"``. At
        any ``sigma / alpha`` between the first and the last: ``"karras"`` (with `rho`),
        ``"exponential"``, ``"log_snr"`` (the same); the model time then is interpolated linearly in
        ``log(sigma / alpha)`` between training steps.
    rho : float
        Exponent of spacing ``"karras"``.
    steps_offset : int
        Added to the steps of spacing ``"leading"``.
    sigmas : array, shape (steps + 1), optional
        Nodes ``sigma / alpha`` instead of a spacing, decreasing; the last may be 0.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239
    .. [2] Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed",
       arXiv 2305.08891, table 2

    Examples
    --------
    >>> fewstep.schedules.vp_linear(spacing="trailing").nodes(4).t.tolist()
    [999.0, 749.0, 499.0, 249.0, -1.0]
    """
    return _training_grid(
        "vp_linear", spacing, rho, steps_offset, sigmas, final_zero,
        beta_start=beta_start, beta_end=beta_end, train_steps=train_steps,
    )  # fmt: skip


def scaled_linear(
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    *,
    train_steps: int = 1000,
    spacing: Spacing = "linspace",
    rho: float = 7.0,
    steps_offset: int = 0,
    sigmas: ArrayLike | None = None,
    final_zero: bool = True,
) -> Schedule:
    """Discrete-time VP with linear square roots of beta (Stable Diffusion).

    Parameters and result are those of `vp_linear`.

    References
    ----------
    .. [1] Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
       arXiv 2112.10752

    Examples
    --------
    >>> fewstep.schedules.scaled_linear().nodes(2).t.tolist()
    [999.0, 0.0, -1.0]
    """
    return _training_grid(
        "scaled_linear", spacing, rho, steps_offset, sigmas, final_zero,
        beta_start=beta_start, beta_end=beta_end, train_steps=train_steps,
    )  # fmt: skip


def cosine(
    *,
    train_steps: int = 1000,
    spacing: Spacing = "linspace",
    rho: float = 7.0,
    steps_offset: int = 0,
    sigmas: ArrayLike | None = None,
    final_zero: bool = True,
) -> Schedule:
    """Discrete-time VP with the squared-cosine schedule, betas capped at 0.999.

    Parameters and result are those of `vp_linear`.

    References
    ----------
    .. [1] Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models",
       arXiv 2102.09672, eq. 17

    Examples
    --------
    >>> fewstep.schedules.cosine(train_steps=100).nodes(2).alpha.round(4).tolist()
    [0.0005, 0.9997, 1.0]
    """
    return _training_grid(
        "cosine", spacing, rho, steps_offset, sigmas, final_zero, train_steps=train_steps
    )


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
    return _make(
        "karras", sigma_min=sigma_min, sigma_max=sigma_max, rho=rho,
        process=_process("karras", process), final_zero=final_zero,
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
    return _make(
        "exponential", sigma_min=sigma_min, sigma_max=sigma_max,
        process=_process("exponential", process), final_zero=final_zero,
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
    return _make(
        "log_snr", sigma_min=sigma_min, sigma_max=sigma_max,
        process=_process("log_snr", process), final_zero=final_zero,
    )  # fmt: skip


def flow(
    shift: float = 1.0,
    *,
    sigma_min: float = nan,
    sigma_max: float = 1.0,
    final_zero: bool = True,
) -> Schedule:
    """Rectified flow: sigma uniform, then shifted to ``shift * sigma / (1 + (shift - 1) * sigma)``.

    Parameters
    ----------
    shift : float
        Above 0; above 1 puts more nodes at high noise (3 for SD3, larger for larger images).
    sigma_min, sigma_max : float
        Ends of the uniform nodes before the shift. Without `sigma_min` they run evenly down to 0.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
       arXiv 2403.03206, eq. 23

    Examples
    --------
    >>> fewstep.schedules.flow(3.0).nodes(4).sigma.round(4).tolist()
    [1.0, 0.9, 0.75, 0.5, 0.0]
    """
    return _make(
        "flow", shift=shift, sigma_min=sigma_min, sigma_max=sigma_max, final_zero=final_zero
    )


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
    array = _array(values)
    assert array is not None
    return _make("sigmas", len(array) - 1, sigmas=array, process=_process("sigmas", process))
