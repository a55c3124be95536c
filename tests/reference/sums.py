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
