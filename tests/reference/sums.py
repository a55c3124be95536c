# SPDX-License-Identifier: Apache-2.0
"""References of the solver family's reductions, with sums that are rounded once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gram(arrays: Sequence[Array]) -> Array:
    """Return the Gram matrix of 1 and the arrays per sample; sums rounded once, by `math.fsum`."""
    batch = len(arrays[0])
    flat = [
        np.asarray(a, np.float64).reshape(batch, np.prod(a.shape[1:], dtype=int)) for a in arrays
    ]
    out = np.empty((batch, len(arrays) + 1, len(arrays) + 1))
    for b in range(batch):
        u = [np.ones_like(flat[0][b]), *(f[b] for f in flat)]
        for j, left in enumerate(u):
            for k, right in enumerate(u):
                out[b, j, k] = math.fsum(left * right)
    return out


def quantile(x: Array, q: float, magnitude: bool = True) -> Array:
    """Return each sample's quantile by sorting; the interpolation is rounded once to float32."""
    out = np.empty(len(x), np.float32)
    for b, sample in enumerate(x):
        values = np.sort(np.asarray(sample, np.float64).ravel())
        if magnitude:
            values = np.sort(np.abs(values))
        position = q * (values.size - 1)
        k = math.floor(position)
        f = position - k
        if np.isnan(values).any():
            out[b] = np.nan
        elif f == 0 or values[k] == values[k + 1]:
            out[b] = values[k]
        else:
            out[b] = values[k] + f * (values[k + 1] - values[k])
    return out


def error_norm(
    error: Array,
    before: Array,
    after: Array,
    minus: Array | None = None,
    atol: float = 1e-6,
    rtol: float = 1e-3,
    tolerance: str = "sum",
) -> Array:
    """Return the root mean square of each sample's error over its tolerance."""
    out = np.zeros(len(error))
    for b in range(len(error)):
        e, x, y = (np.asarray(a[b], np.float64).ravel() for a in (error, before, after))
        if minus is not None:
            e = e - np.asarray(minus[b], np.float64).ravel()
        size = rtol * np.maximum(np.abs(x), np.abs(y))
        scale = atol + size if tolerance == "sum" else np.maximum(atol, size)
        if e.size:
            out[b] = math.sqrt(math.fsum((e / scale) ** 2) / e.size)
    return out
