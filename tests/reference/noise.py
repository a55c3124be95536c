# SPDX-License-Identifier: Apache-2.0
"""Float64 NumPy references of ``noise.normal`` and ``noise.brownian``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
LOW = np.uint64(0xFFFFFFFF)


def philox(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """Return the four 32-bit words of each block, as Salmon et al. (2011) define them."""
    c = [np.asarray(word, np.uint64) & LOW for word in counter]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c = [high1 ^ c[1] ^ np.uint64(k0), p1 & LOW, high0 ^ c[3] ^ np.uint64(k1), p0 & LOW]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def normal(
    seed: int, count: int, *, step: int = 0, stream: int = 0, first_block: int = 0
) -> NDArray[np.float64]:
    """Return `count` normals of one sample, from element ``4 * first_block`` on.

    The radius' uniform number is rounded to float32 as the contract's ``fma`` does, because near 1
    its rounding is what decides the logarithm; everything after that is float64.
    """
    seed %= 2**64
    blocks = np.arange(-(-count // 4), dtype=np.uint64) + np.uint64(first_block)
    one = np.ones_like(blocks)
    counter = [blocks, blocks >> np.uint64(32), one * np.uint64(step), one * np.uint64(stream)]
    words = philox(counter, (seed % 2**32, seed >> 32))
    z = np.empty((len(blocks), 4))
    for half in (0, 2):
        word = words[half].astype(np.float32).astype(np.float64)
        u = (word * 2.0**-32 + 2.0**-33).astype(np.float32).astype(np.float64)
        angle = 2 * np.pi * (words[half + 1].astype(np.float64) / 2**32)
        radius = np.sqrt(-2 * np.log(u))
        z[:, half], z[:, half + 1] = radius * np.cos(angle), radius * np.sin(angle)
    return z.reshape(-1)[:count]


def brownian(
    seed: int, t: float, count: int, *, t_min: float, t_max: float, depth: int, stream: int
) -> NDArray[np.float64]:
    """Return W(t) by midpoint displacement down to the nearest point of the grid.

    Between two known points the motion is a bridge: in the middle it has their mean and a quarter
    of the interval's length as its variance (Levy 1948).
    """
    cells = 2**depth
    point = int(np.floor((t - t_min) / (t_max - t_min) * cells + 0.5))
    low, high = 0, cells
    w_low, w_high = np.zeros(count), np.sqrt(t_max - t_min) * normal(seed, count, stream=stream)
    for level in range(depth):
        if point in (low, high):
            break
        middle = (low + high) // 2
        node = 2**level + low // (high - low)
        length = (t_max - t_min) * (high - low) / cells
        xi = normal(seed, count, step=node, stream=stream)
        w_middle = 0.5 * (w_low + w_high) + 0.5 * np.sqrt(length) * xi
        if point < middle:
            high, w_high = middle, w_middle
        else:
            low, w_low = middle, w_middle
    return w_low if point == low else w_high
