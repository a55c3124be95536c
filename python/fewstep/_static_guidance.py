# SPDX-License-Identifier: Apache-2.0
"""Guidance whose weights the plan alone decides; `fewstep.guidance` re-exports it."""

from __future__ import annotations

from collections.abc import Sequence

from ._guidance import (
    ClassifierGuidance,
    ComposedGuidance,
    Guidance,
    checked,
    checked_interval,
)
from ._renoised import RenoisedGuidance


def cfg(scale: float, interval: tuple[float, float] | None = None) -> Guidance:
    """Guide a conditional model away from its unconditional output.

    ``g = scale * conditional + (1 - scale) * unconditional``: 0 is unconditional, 1 conditional,
    more sharpens the condition.

    Parameters
    ----------
    scale : float
        Guidance scale, finite.
    interval : tuple of two floats, optional
        ``(low, high)`` in units of sigma / alpha: guidance is on at noise levels in
        ``(low, high]`` and the conditional output is used alone elsewhere; ``high`` may be
        infinite.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        `scale` is not finite, or `interval` is not increasing and non-negative.

    References
    ----------
    .. [1] Ho, Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598, eq. 6 with
       ``w = scale - 1``.
    .. [2] Kynkaanniemi et al., "Applying guidance in a limited interval improves sample and
       distribution quality in diffusion models", arXiv 2404.07724.

    Examples
    --------
    >>> cfg(4.0)
    Guidance(scale=4.0, interval=None, n=2)
    """
    return Guidance(checked("cfg.scale", scale), checked_interval("cfg", interval))


def cfg_pp(scale: float, interval: tuple[float, float] | None = None) -> Guidance:
    """CFG++: denoise with the guided output, renoise with the unconditional one.

    ``x' = alpha' x0_w + sigma' e_u`` with ``x0_w = scale * x0_c + (1 - scale) * x0_u``. For a step
    that takes one output this is classifier-free guidance whose scale follows the plan. A multistep
    solver remembers unconditional outputs; what these leave of the new sample's signal is x0_w's.

    Parameters
    ----------
    scale : float
        0 (unconditional) to 1; about a twelfth of a usual guidance scale.
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance
        For first-order and multistep solvers without corrector (``euler``, ``ddim``, ``ddpm``,
        ``euler_ancestral``, ``flow_euler``, ``dpmpp_2m``, ``dpmpp_3m``, their ``_sde`` forms,
        ``ipndm``, ...), and ``dpmpp_2s`` at half steps.

    Raises
    ------
    ValueError
        `scale` is not finite, or `interval` is not increasing and non-negative.

    References
    ----------
    .. [1] Chung et al., "CFG++: manifold-constrained classifier free guidance for diffusion
       models", arXiv 2406.08070, algorithm 2; the authors' code has the second-order solvers.

    Examples
    --------
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = fewstep.solver.plan("euler", schedule=schedule)
    >>> cfg_pp(0.5).weights(plan)  # half of the noise is renewed, then all
    array([[1. , 0. ],
           [0.5, 0.5]])
    >>> schedule = fewstep.schedules.karras(0.1, 10.0)
    >>> plan = fewstep.solver.plan("dpmpp_2m", steps=6, schedule=schedule)
    >>> cfg_pp(0.5).plan(plan).rows[2].gamma  # remembers unconditional outputs
    (0.0, 1.0)
    """
    return RenoisedGuidance(checked("cfg_pp.scale", scale), checked_interval("cfg_pp", interval))


def compose(scales: Sequence[float], interval: tuple[float, float] | None = None) -> Guidance:
    """Guide by several conditions at once, towards some and away from others.

    ``g = u + sum_i scales[i] * (c_i - u)``; the outputs are c_1, c_2, ..., u in this order.

    Parameters
    ----------
    scales : sequence of 1 to 3 floats
        One for each condition; negative for a negative prompt.
    interval : tuple of two floats, optional
        As in `cfg`; outside it the first condition's output is used alone.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        There are none or more than 3 scales, or one is not finite.

    References
    ----------
    .. [1] Liu et al., "Compositional visual generation with composable diffusion models",
       arXiv 2206.01714, eq. 11 and 13.

    Examples
    --------
    >>> compose([7.5, -2.0]).fixed
    (7.5, -2.0, -4.5)
    """
    if not 1 <= len(scales) <= 3:
        raise ValueError(f"compose: 'scales' must hold 1 to 3 numbers, got {len(scales)}")
    weights = [checked("compose.scales", s) for s in scales]
    fixed = (*weights, 1.0 - sum(weights))
    return ComposedGuidance(weights[0], checked_interval("compose", interval), len(fixed), fixed)


def instruct(text: float, image: float, interval: tuple[float, float] | None = None) -> Guidance:
    """Guide by a text and an image, as instructions that edit an image want it.

    ``g = u + image * (i - u) + text * (c - i)``; the outputs are c (text and image), i (image
    alone) and u (neither), in this order.

    Parameters
    ----------
    text, image : float
        Guidance scales.
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        A scale is not finite.

    References
    ----------
    .. [1] Brooks, Holynski, Efros, "InstructPix2Pix", arXiv 2211.09800, eq. 3.

    Examples
    --------
    >>> instruct(7.5, 1.5).fixed
    (7.5, -6.0, -0.5)
    """
    t, i = checked("instruct.text", text), checked("instruct.image", image)
    return ComposedGuidance(t, checked_interval("instruct", interval), 3, (t, i - t, 1.0 - i))


def classifier(
    strength: float, *, scale: float = 1.0, interval: tuple[float, float] | None = None
) -> Guidance:
    """Guide by a gradient: ``eps' = eps - strength * sigma * grad log p(y | x)``.

    The model's outputs are its own (with `scale` other than 1 the conditional and the unconditional
    one) and, last, the gradient with respect to the sample x: of a classifier's log-probability, of
    a minority class in minority guidance [2]_, of a reward or of a measurement's log-likelihood.

    Parameters
    ----------
    strength : float
        Weight of the gradient.
    scale : float, default 1.0
        Of classifier-free guidance at the same time; 1 for none.
    interval : tuple of two floats, optional
        As in `cfg`.

    Returns
    -------
    Guidance

    Raises
    ------
    ValueError
        A number is not finite.

    Notes
    -----
    The weights account for what the plan's model predicts: ``strength * sigma**2 / (alpha * q)``
    where ``x0 = p * x + q * output``.

    References
    ----------
    .. [1] Dhariwal, Nichol, "Diffusion models beat GANs on image synthesis", arXiv 2105.05233,
       algorithm 2.
    .. [2] Um, Lee, Ye, "Don't play favorites: minority guidance for diffusion models",
       arXiv 2301.12334.

    Examples
    --------
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = fewstep.solver.plan("euler", schedule=schedule, prediction="x0")
    >>> classifier(0.5).weights(plan)
    array([[1., 8.],
           [1., 2.]])
    """
    s = checked("classifier.scale", scale)
    g = checked("classifier.strength", strength)
    n = 2 if s == 1.0 else 3
    return ClassifierGuidance(s, checked_interval("classifier", interval), n, g)
