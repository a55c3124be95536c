# SPDX-License-Identifier: Apache-2.0
"""Guidance that looks at the outputs: weights per sample from their Gram matrix.

Each function takes what `fewstep.solver.gram` gives for the conditional output c, the unconditional
one u and where needed the running difference m, in this order, and returns the weights that
`fewstep.solver.step` takes as ``guidance``. Plain array arithmetic on B small matrices: nothing
waits for a device, so a step with such guidance can be captured into a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import is_torch

_TINY = 1e-300  # keeps 0 / 0 away where every output is zero
_NORMALIZE_EPS = 1e-12  # of torch.nn.functional.normalize, which diffusers uses
_ZERO_STAR_EPS = 1e-8  # of the authors' code


def _library(gram: Any, inputs: int, function: str) -> tuple[Any, Any]:
    """Return the array library and the matrices; a tensor in host memory is used as NumPy's."""
    shape = tuple(gram.shape)
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] != inputs + 1:
        raise ValueError(
            f"{function}: 'gram' must have shape [B, {inputs + 1}, {inputs + 1}], got {list(shape)}"
        )
    if not is_torch(gram):
        return np, np.asarray(gram)
    if _in_host_memory(gram):  # NumPy's overhead per operation is a fraction of torch's
        return np, gram.detach().numpy()
    import torch

    return torch, gram


def _in_host_memory(gram: Any) -> bool:
    return bool(gram.device.type == "cpu")


def _finish(xp: Any, gram: Any, columns: list[Any]) -> Any:
    """Return columns [B] as weights [B, G], float32, of gram's kind."""
    weights = xp.stack(columns, -1)
    if xp is not np:
        return weights.float()
    weights = weights.astype(np.float32)
    if not is_torch(gram):
        return weights
    import torch

    return torch.from_numpy(weights)


def _inner(gram: Any, left: list[Any], right: list[Any]) -> Any:
    """Return the inner product of two combinations of the outputs."""
    total: Any = 0.0
    for j, a in enumerate(left, 1):
        for k, b in enumerate(right, 1):
            total = total + a * b * gram[:, j, k]
    return total


def _deviation(xp: Any, gram: Any, weights: list[Any]) -> Any:
    """Return the standard deviation of a combination, up to the factor that all share."""
    total: Any = 0.0
    for k, weight in enumerate(weights, 1):
        total = total + weight * gram[:, 0, k]
    square = _inner(gram, weights, weights) - total * total / gram[:, 0, 0]
    return xp.sqrt(xp.clip(square, 0.0, None))


def _rescaled(xp: Any, gram: Any, weights: list[Any], amount: float) -> list[Any]:
    """Return weights whose combination's deviation is moved towards the first output's."""
    if amount == 0.0:
        return weights
    wanted = _deviation(xp, gram, [1.0])
    ratio = wanted / xp.clip(_deviation(xp, gram, weights), _TINY, None)
    ratio = xp.where(wanted > 0, ratio, xp.ones_like(ratio))
    factor = amount * ratio + (1.0 - amount)
    return [factor * weight for weight in weights]


def rescale_weights(gram: Any, scale: float, amount: float) -> Any:
    """Weights of classifier-free guidance rescaled to the conditional output's deviation.

    ``g = amount * std(c) / std(g0) * g0 + (1 - amount) * g0`` with
    ``g0 = scale * c + (1 - scale) * u``.

    Parameters
    ----------
    gram : array, shape (B, 3, 3), float64
        `fewstep.solver.gram` of c and u.
    scale : float
        Guidance scale.
    amount : float
        0 (none) to 1 (all).

    Returns
    -------
    array, shape (B, 2), float32

    References
    ----------
    .. [1] Lin et al., "Common diffusion noise schedules and sample steps are flawed",
       arXiv 2305.08891, eq. 14 to 16.

    Examples
    --------
    >>> c, u = np.array([[1.0, -1.0]], "f4"), np.zeros((1, 2), "f4")
    >>> rescale_weights(fewstep.solver.gram([c, u]), 4.0, 1.0)
    array([[ 1.  , -0.75]], dtype=float32)
    """
    xp, g = _library(gram, 2, "rescale_weights")
    ones = xp.ones_like(g[:, 0, 0])
    return _finish(xp, gram, _rescaled(xp, g, [scale * ones, (1.0 - scale) * ones], amount))


def apg_weights(
    gram: Any,
    scale: float,
    *,
    eta: float = 0.0,
    norm_threshold: float = 0.0,
    momentum: float = 0.0,
    rescale: float = 0.0,
    parity: str | None = None,
) -> Any:
    """Weights of adaptive projected guidance.

    ``d = c - u + momentum * m``, shortened to `norm_threshold`; its part along c is multiplied by
    `eta`; then ``g = c + (scale - 1) * d``.

    Parameters
    ----------
    gram : array, shape (B, 3, 3) or (B, 4, 4), float64
        `fewstep.solver.gram` of c, u and, with `momentum`, the running difference m.
    scale : float
        Guidance scale.
    eta : float, default 0.0
        What is kept of the part along c: 0 nothing, 1 everything.
    norm_threshold : float, default 0.0
        Largest norm of d; 0 for none.
    momentum : float, default 0.0
        Weight of the running difference, which the caller keeps: ``m <- c - u + momentum * m``.
        Negative in the paper.
    rescale : float, default 0.0
        As `amount` of `rescale_weights`.
    parity : {"diffusers"}, optional
        ``g = u + scale * d``, which differs from the paper unless `eta` is 1.

    Returns
    -------
    array, shape (B, 2) or (B, 3), float32
        The third column, with `momentum`, is m's.

    References
    ----------
    .. [1] Sadat, Hilliges, Weber, "Eliminating oversaturation and artifacts of high guidance scales
       in diffusion models", arXiv 2410.02416, algorithm 1.

    Examples
    --------
    >>> c, u = np.array([[2.0, 0.0]], "f4"), np.array([[1.0, -1.0]], "f4")
    >>> w = apg_weights(fewstep.solver.gram([c, u]), 3.0)
    >>> w @ np.concatenate([c, u])  # moved at right angles to c
    array([[2., 2.]], dtype=float32)
    """
    inputs = 3 if momentum != 0.0 else 2
    xp, g = _library(gram, inputs, "apg_weights")
    ones = xp.ones_like(g[:, 0, 0])
    d = [ones, -ones, momentum * ones][:inputs]
    if norm_threshold > 0.0:
        norm = xp.sqrt(xp.clip(_inner(g, d, d), 0.0, None))
        factor = xp.clip(norm_threshold / xp.clip(norm, _TINY, None), None, 1.0)
        d = [factor * weight for weight in d]
    length = xp.clip(xp.sqrt(g[:, 1, 1]), _NORMALIZE_EPS, None)
    along = _inner(g, d, [ones]) / (length * length)
    d[0] = d[0] + (eta - 1.0) * along
    if parity == "diffusers":
        weights = [scale * weight for weight in d]
        weights[1] = weights[1] + 1.0
    elif parity is None:
        weights = [(scale - 1.0) * weight for weight in d]
        weights[0] = weights[0] + 1.0
    else:
        raise ValueError(f"apg_weights: 'parity' must be 'diffusers' or None, got {parity!r}")
    return _finish(xp, gram, _rescaled(xp, g, weights, rescale))


def zero_star_weights(gram: Any, scale: float, *, rescale: float = 0.0) -> Any:
    """Weights of CFG-Zero*: guidance away from the best multiple of the unconditional output.

    ``g = s * u + scale * (c - s * u)`` with ``s = <c, u> / |u|**2``.

    Parameters
    ----------
    gram : array, shape (B, 3, 3), float64
        `fewstep.solver.gram` of c and u.
    scale : float
        Guidance scale.
    rescale : float, default 0.0
        As `amount` of `rescale_weights`.

    Returns
    -------
    array, shape (B, 2), float32

    References
    ----------
    .. [1] Fan et al., "CFG-Zero*: improved classifier-free guidance for flow matching models",
       arXiv 2503.18886, eq. 7 to 9.

    Examples
    --------
    >>> c, u = np.array([[2.0, 2.0]], "f4"), np.array([[1.0, 1.0]], "f4")
    >>> w = zero_star_weights(fewstep.solver.gram([c, u]), 7.0)
    >>> (w @ np.concatenate([c, u])).round(5)
    array([[2., 2.]], dtype=float32)
    """
    xp, g = _library(gram, 2, "zero_star_weights")
    s = g[:, 1, 2] / (g[:, 2, 2] + _ZERO_STAR_EPS)
    weights = [scale * xp.ones_like(s), (1.0 - scale) * s]
    return _finish(xp, gram, _rescaled(xp, g, weights, rescale))


def tangential_weights(gram: Any, scale: float, *, rescale: float = 0.0) -> Any:
    """Weights of tangential damping: u is projected on the direction that c and u share.

    ``g = p + scale * (c - p)`` where p is u's projection on the first right singular vector of
    [c; u].

    Parameters
    ----------
    gram : array, shape (B, 3, 3), float64
        `fewstep.solver.gram` of c and u.
    scale : float
        Guidance scale.
    rescale : float, default 0.0
        As `amount` of `rescale_weights`.

    Returns
    -------
    array, shape (B, 2), float32

    Notes
    -----
    The singular vector is ``a c + b u`` with (a, b) the first eigenvector of the outputs' 2 x 2
    Gram matrix, so ``p = b (a c + b u)``, in closed form. Where c and u are orthogonal and equally
    long no direction is first, and u stays as it is.

    References
    ----------
    .. [1] Kwon et al., "TCFG: tangential damping classifier-free guidance", arXiv 2503.18137.

    Examples
    --------
    >>> c, u = np.array([[3.0, 0.0]], "f4"), np.array([[0.0, 1.0]], "f4")
    >>> w = tangential_weights(fewstep.solver.gram([c, u]), 2.0)
    >>> w @ np.concatenate([c, u]) + 0.0  # u has no part along c
    array([[6., 0.]], dtype=float32)
    """
    xp, g = _library(gram, 2, "tangential_weights")
    half = 0.5 * (g[:, 1, 1] - g[:, 2, 2])
    radius = xp.sqrt(half * half + g[:, 1, 2] * g[:, 1, 2])
    some = radius > 0
    divisor = xp.where(some, radius, xp.ones_like(radius))
    product = 0.5 * g[:, 1, 2] / divisor  # a b
    # b^2 = (1 - half / radius) / 2, without cancellation where c is the longer one.
    b2 = xp.where(
        half > 0,
        0.5 * g[:, 1, 2] ** 2 / (divisor * (divisor + xp.abs(half))),
        0.5 * (1.0 - half / divisor),
    )
    b2 = xp.where(some, b2, xp.ones_like(b2))
    weights = [scale + (1.0 - scale) * product, (1.0 - scale) * b2]
    return _finish(xp, gram, _rescaled(xp, g, weights, rescale))


def magnitude_weights(gram: Any, scale: float, *, alpha: float = 8.0, rescale: float = 0.0) -> Any:
    """Weights of magnitude-aware guidance: less where the outputs differ much.

    ``g = u + (1 + (scale - 1) * exp(-alpha * |c - u| / |u|)) * (c - u)``

    Parameters
    ----------
    gram : array, shape (B, 3, 3), float64
        `fewstep.solver.gram` of c and u.
    scale : float
        Guidance scale.
    alpha : float, default 8.0
        How fast guidance fades with the relative difference.
    rescale : float, default 0.0
        As `amount` of `rescale_weights`.

    Returns
    -------
    array, shape (B, 2), float32

    References
    ----------
    .. [1] "MAMBO-G: magnitude-aware mitigation for boosted guidance", arXiv 2508.03442, as
       diffusers has it.

    Examples
    --------
    >>> c, u = np.array([[1.0, 2.0]], "f4"), np.array([[1.0, 2.0]], "f4")
    >>> magnitude_weights(fewstep.solver.gram([c, u]), 7.0)
    array([[ 7., -6.]], dtype=float32)
    """
    xp, g = _library(gram, 2, "magnitude_weights")
    ones = xp.ones_like(g[:, 0, 0])
    d = [ones, -ones]
    distance = xp.sqrt(xp.clip(_inner(g, d, d), 0.0, None))
    length = xp.sqrt(g[:, 2, 2])
    final = 1.0 + (scale - 1.0) * xp.exp(-alpha * distance / xp.clip(length, _TINY, None))
    return _finish(xp, gram, _rescaled(xp, g, [final, 1.0 - final], rescale))
