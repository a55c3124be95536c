# SPDX-License-Identifier: Apache-2.0
"""Guidance whose weights follow from each step's outputs; `fewstep.guidance` re-exports it."""

from __future__ import annotations

from functools import partial

from ._gram_weights import (
    apg_weights,
    magnitude_weights,
    rescale_weights,
    tangential_weights,
    zero_star_weights,
)
from ._guidance import GramGuidance, Guidance, checked, checked_interval


def cfg_rescale(
    scale: float, amount: float = 0.7, interval: tuple[float, float] | None = None
) -> Guidance:
    """Classifier-free guidance rescaled to the conditional output's standard deviation.

    Parameters
    ----------
    scale : float
        Guidance scale.
    amount : float, default 0.7
        0 (none) to 1 (all).
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        A number is out of range.

    References
    ----------
    .. [1] Lin et al., "Common diffusion noise schedules and sample steps are flawed",
       arXiv 2305.08891, eq. 14 to 16.

    Examples
    --------
    >>> cfg_rescale(7.5).needs_gram
    True
    """
    s, part = checked("cfg_rescale.scale", scale), checked("cfg_rescale.amount", amount, 0.0, 1.0)
    method = partial(rescale_weights, scale=s, amount=part)
    return GramGuidance(s, checked_interval("cfg_rescale", interval), method=method)


def apg(
    scale: float,
    *,
    eta: float = 0.0,
    norm_threshold: float = 0.0,
    momentum: float = 0.0,
    rescale: float = 0.0,
    parity: str | None = None,
    interval: tuple[float, float] | None = None,
) -> Guidance:
    """Adaptive projected guidance; see `apg_weights`.

    Parameters
    ----------
    scale : float
        Guidance scale.
    eta : float, default 0.0
        What is kept of the difference's part along the conditional output.
    norm_threshold : float, default 0.0
        Largest norm of the difference; 0 for none.
    momentum : float, default 0.0
        Weight of the running difference, -0.75 to 0 in the paper.
    rescale : float, default 0.0
        As `amount` of `cfg_rescale`.
    parity : {"diffusers"}, optional
        Guide from the unconditional output, as diffusers does by default.
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        A number is out of range.

    References
    ----------
    .. [1] Sadat, Hilliges, Weber, "Eliminating oversaturation and artifacts of high guidance scales
       in diffusion models", arXiv 2410.02416, algorithm 1.

    Examples
    --------
    >>> apg(10.0, norm_threshold=15.0, momentum=-0.5).momentum
    -0.5
    """
    s, m = checked("apg.scale", scale), checked("apg.momentum", momentum)
    if parity not in (None, "diffusers"):
        raise ValueError(f"apg: 'parity' must be 'diffusers' or None, got {parity!r}")
    method = partial(
        apg_weights,
        scale=s,
        eta=checked("apg.eta", eta),
        norm_threshold=checked("apg.norm_threshold", norm_threshold, 0.0),
        momentum=m,
        rescale=checked("apg.rescale", rescale, 0.0, 1.0),
        parity=parity,
    )
    return GramGuidance(s, checked_interval("apg", interval), momentum=m, method=method)


def cfg_zero_star(
    scale: float,
    *,
    zero_init: int = 1,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Guidance:
    """CFG-Zero*: an optimised scale of the unconditional output, and first steps of zero.

    Parameters
    ----------
    scale : float
        Guidance scale.
    zero_init : int, default 1
        First steps at which the model's output is taken for zero. Meant for flow models.
    rescale : float, default 0.0
        As `amount` of `cfg_rescale`.
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        A number is out of range.

    References
    ----------
    .. [1] Fan et al., "CFG-Zero*: improved classifier-free guidance for flow matching models",
       arXiv 2503.18886.

    Examples
    --------
    >>> cfg_zero_star(5.0).zero_init
    1
    """
    s = checked("cfg_zero_star.scale", scale)
    first = int(checked("cfg_zero_star.zero_init", zero_init, 0.0))
    amount = checked("cfg_zero_star.rescale", rescale, 0.0, 1.0)
    method = partial(zero_star_weights, scale=s, rescale=amount)
    return GramGuidance(
        s, checked_interval("cfg_zero_star", interval), zero_init=first, method=method
    )


def tcfg(
    scale: float, *, rescale: float = 0.0, interval: tuple[float, float] | None = None
) -> Guidance:
    """Tangential damping: the unconditional output keeps what it shares with the conditional one.

    Parameters
    ----------
    scale : float
        Guidance scale.
    rescale : float, default 0.0
        As `amount` of `cfg_rescale`.
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        A number is out of range.

    References
    ----------
    .. [1] Kwon et al., "TCFG: tangential damping classifier-free guidance", arXiv 2503.18137.

    Examples
    --------
    >>> tcfg(5.0).n
    2
    """
    s, amount = checked("tcfg.scale", scale), checked("tcfg.rescale", rescale, 0.0, 1.0)
    method = partial(tangential_weights, scale=s, rescale=amount)
    return GramGuidance(s, checked_interval("tcfg", interval), method=method)


def mambo_g(
    scale: float,
    *,
    alpha: float = 8.0,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Guidance:
    """Magnitude-aware guidance: less where the outputs differ much.

    Parameters
    ----------
    scale : float
        Guidance scale.
    alpha : float, default 8.0
        How fast guidance fades with the relative difference.
    rescale : float, default 0.0
        As `amount` of `cfg_rescale`.
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        A number is out of range.

    References
    ----------
    .. [1] "MAMBO-G: magnitude-aware mitigation for boosted guidance", arXiv 2508.03442, as
       diffusers has it.

    Examples
    --------
    >>> mambo_g(7.0).scale
    7.0
    """
    s, amount = checked("mambo_g.scale", scale), checked("mambo_g.rescale", rescale, 0.0, 1.0)
    method = partial(
        magnitude_weights, scale=s, alpha=checked("mambo_g.alpha", alpha, 0.0), rescale=amount
    )
    return GramGuidance(s, checked_interval("mambo_g", interval), method=method)
