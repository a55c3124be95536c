# SPDX-License-Identifier: Apache-2.0
"""Guidance on whole arrays in float64, as the papers write it; sums are taken over each sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _total(values: Array) -> Array:
    return values.sum(axis=tuple(range(1, values.ndim)), keepdims=True)


def _norm(values: Array) -> Array:
    return np.sqrt(_total(values**2))


def _deviation(values: Array) -> Array:
    return values.std(axis=tuple(range(1, values.ndim)), keepdims=True)


def rescale(g: Array, c: Array, amount: float) -> Array:
    """Lin et al., arXiv 2305.08891, eq. 15 and 16."""
    return amount * g * (_deviation(c) / _deviation(g)) + (1 - amount) * g


def cfg(c: Array, u: Array, scale: float) -> Array:
    """Ho, Salimans, arXiv 2207.12598."""
    return u + scale * (c - u)


def apg(
    c: Array,
    u: Array,
    scale: float,
    eta: float,
    norm_threshold: float = 0.0,
    average: Array | None = None,
    momentum: float = 0.0,
) -> Array:
    """Sadat et al., arXiv 2410.02416, algorithm 1."""
    d = c - u
    if average is not None:
        d = d + momentum * average
    if norm_threshold > 0:
        d = d * np.minimum(1.0, norm_threshold / _norm(d))
    unit = c / _norm(c)
    parallel = _total(d * unit) * unit
    return c + (scale - 1) * (d - parallel + eta * parallel)


def zero_star(c: Array, u: Array, scale: float) -> Array:
    """Fan et al., arXiv 2503.18886, eq. 7 to 9."""
    s = _total(c * u) / _total(u * u)
    return (1 - scale) * s * u + scale * c


def tangential(c: Array, u: Array, scale: float) -> Array:
    """Kwon et al., arXiv 2503.18137: by a singular value decomposition of each sample."""
    p = np.empty_like(u)
    for b in range(len(c)):
        pair = np.stack([c[b].ravel(), u[b].ravel()])
        first = np.linalg.svd(pair, full_matrices=False)[2][0]
        p[b] = ((pair[1] @ first) * first).reshape(u[b].shape)
    return p + scale * (c - p)


def magnitude(c: Array, u: Array, scale: float, alpha: float) -> Array:
    """MAMBO-G, arXiv 2508.03442."""
    return u + (1 + (scale - 1) * np.exp(-alpha * _norm(c - u) / _norm(u))) * (c - u)
