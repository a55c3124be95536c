# SPDX-License-Identifier: Apache-2.0
"""Discrete-time VP: betas on a training grid, and where the nodes lie on it."""

from __future__ import annotations

from numpy.typing import ArrayLike

from ._schedule import Schedule, Spacing, as_floats, make


def _training_grid(
    name: str,
    spacing: Spacing,
    sigmas: ArrayLike | None,
    final_zero: bool,
    /,
    **params: object,
) -> Schedule:
    values = as_floats(sigmas)
    if values is not None:
        params["sigmas"] = values
        spacing = "log_linear" if spacing == "log_linear" else "sigmas"
    steps = None if values is None or spacing == "log_linear" else len(values) - 1
    return make(name, steps, spacing=spacing, final_zero=final_zero, **params)


def vp_linear(
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    *,
    train_steps: int = 1000,
    spacing: Spacing = "linspace",
    rho: float = 7.0,
    steps_offset: int = 0,
    beta_a: float = 0.6,
    beta_b: float = 0.6,
    zero_terminal_snr: bool = False,
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
        ``"leading"`` (multiples of ``train_steps // n``, plus `steps_offset`), ``"trailing"``,
        ``"simple"`` (``train_steps - 1 - floor(i * train_steps / n)``), ``"ddim_uniform"`` (1,
        1 + ``train_steps // n``, ...: all there are, so one step more than asked for where n does
        not divide), ``"beta"`` (quantiles of Beta(`beta_a`, `beta_b`); those that round to one
        training step are one step). Between training steps: ``"normal"`` (even, both ends),
        ``"sgm_uniform"`` (even, without the last). At any ``sigma / alpha`` between the first and
        the last: ``"karras"`` and ``"polyexponential"`` (with `rho`), ``"exponential"``,
        ``"log_snr"`` (the same), ``"kl_optimal"``, ``"beta_sigma"``; the model time then is
        interpolated linearly in ``log(sigma / alpha)`` between training steps.
    rho : float
        Exponent of spacings ``"karras"`` and ``"polyexponential"``.
    steps_offset : int
        Added to the steps of spacing ``"leading"``.
    beta_a, beta_b : float
        Of the Beta distribution, above 0.
    zero_terminal_snr : bool
        Rescale the betas so that the last training step has no signal; the model must not predict
        the noise then.
    sigmas : array, optional
        Nodes ``sigma / alpha`` instead of a spacing, shape (steps + 1), decreasing; the last may be
        0. With spacing ``"log_linear"`` a table of any length, all above 0, that is resampled.
    final_zero : bool
        End at ``sigma = 0``.

    Returns
    -------
    Schedule

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239
    .. [2] Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed",
       arXiv 2305.08891, table 2 and algorithm 1
    .. [3] Lee et al., "Beta Sampling is All You Need", arXiv 2407.12173

    Examples
    --------
    >>> fewstep.schedules.vp_linear(spacing="trailing").nodes(4).t.tolist()
    [999.0, 749.0, 499.0, 249.0, -1.0]
    """
    return _training_grid(
        "vp_linear", spacing, sigmas, final_zero,
        beta_start=beta_start, beta_end=beta_end, train_steps=train_steps, rho=rho,
        steps_offset=steps_offset, beta_a=beta_a, beta_b=beta_b,
        zero_terminal_snr=zero_terminal_snr,
    )  # fmt: skip


def scaled_linear(
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    *,
    train_steps: int = 1000,
    spacing: Spacing = "linspace",
    rho: float = 7.0,
    steps_offset: int = 0,
    beta_a: float = 0.6,
    beta_b: float = 0.6,
    zero_terminal_snr: bool = False,
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
        "scaled_linear", spacing, sigmas, final_zero,
        beta_start=beta_start, beta_end=beta_end, train_steps=train_steps, rho=rho,
        steps_offset=steps_offset, beta_a=beta_a, beta_b=beta_b,
        zero_terminal_snr=zero_terminal_snr,
    )  # fmt: skip


def cosine(
    *,
    train_steps: int = 1000,
    spacing: Spacing = "linspace",
    rho: float = 7.0,
    steps_offset: int = 0,
    beta_a: float = 0.6,
    beta_b: float = 0.6,
    zero_terminal_snr: bool = False,
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
        "cosine", spacing, sigmas, final_zero,
        train_steps=train_steps, rho=rho,
        steps_offset=steps_offset, beta_a=beta_a, beta_b=beta_b,
        zero_terminal_snr=zero_terminal_snr,
    )  # fmt: skip
