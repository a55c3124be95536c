# SPDX-License-Identifier: Apache-2.0
"""Cases of ``draft.recycle`` (updates of a table) and of the drafters: texts of few tokens."""

from __future__ import annotations

import numpy as np

TABLES = ((1, 1, 0), (5, 2, 1), (7, 3, 20), (100, 8, 64))  # V, K, N


def update(V: int, K: int, N: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table, tokens with repeats, and their successors."""
    rng = np.random.default_rng([30, V, K, N, seed])
    table = rng.integers(-1, V, (V, K)).astype(np.int32)
    tokens = rng.integers(0, V, N).astype(np.int32)
    return table, tokens, rng.integers(-1, V, (N, K)).astype(np.int32)


def text(length: int, tokens: int, seed: int = 0) -> list[int]:
    """A random text that repeats itself now and then."""
    rng = np.random.default_rng([31, length, tokens, seed])
    out: list[int] = []
    while len(out) < length:
        if out and rng.random() < 0.4:
            start = int(rng.integers(0, len(out)))
            out += out[start : start + int(rng.integers(1, 9))]
        else:
            out += rng.integers(0, tokens, 3).tolist()
    return out[:length]
