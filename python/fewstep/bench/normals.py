# SPDX-License-Identifier: Apache-2.0
"""The normals of noise.h in float64, to check the timed ones against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def normals(seed: int, count: int, step: int = 0, stream: int = 0) -> NDArray[np.float64]:
    """Return the first `count` normals of a seed.

    Parameters
    ----------
    seed, count, step, stream : int

    Returns
    -------
    array, shape (count,), float64

    References
    ----------
    .. [1] Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10)
    .. [2] Box, Muller 1958, "A note on the generation of random normal deviates"
    """
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    c = [
        block & _LOW,
        block >> _HALF,
        np.full_like(block, step),
        np.full_like(block, stream),
    ]
    for turn in range(10):
        keys = [np.uint64(((seed >> (32 * i)) + turn * _WEYL[i]) & 0xFFFFFFFF) for i in range(2)]
        p, q = _MULTIPLIERS[0] * c[0], _MULTIPLIERS[1] * c[2]
        c = [
            (q >> _HALF) ^ c[1] ^ keys[0],
            q & _LOW,
            (p >> _HALF) ^ c[3] ^ keys[1],
            p & _LOW,
        ]
    out = np.empty((block.size, 4))
    for pair in range(2):
        u = (c[2 * pair].astype(np.float64) + 0.5) / 2.0**32
        angle = 2.0 * np.pi * c[2 * pair + 1].astype(np.float64) / 2.0**32
        radius = np.sqrt(-2.0 * np.log(u))
        out[:, 2 * pair] = radius * np.cos(angle)
        out[:, 2 * pair + 1] = radius * np.sin(angle)
    return out.ravel()[:count]
