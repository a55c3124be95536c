# SPDX-License-Identifier: Apache-2.0
"""Cases of ``linear.pack``, ``linear.unpack`` and ``linear.run``."""

from __future__ import annotations

import numpy as np

from reference.linear import bfloat16

KINDS = ("float32", "float16", "bfloat16", "int8", "int4")
QUANTISED = ("int8", "int4")
DTYPES = ("float32", "float16", "bfloat16")

# (M, I, O), around steps (2, 4), groups (32, 64), blocks (512), panels (32) and vectors (8, 16).
SHAPES = (
    (0, 5, 5),
    (1, 1, 1),
    (2, 1, 33),
    (3, 2, 1),
    (1, 3, 31),
    (5, 31, 32),
    (4, 33, 64),
    (7, 63, 65),
    (2, 100, 97),
    (3, 511, 40),
    (1, 512, 16),
    (13, 513, 48),
    (2, 1027, 33),
)
# Around the tiles (2 to 12 rows) and the rows whose sums are kept at a time (70, 72).
ROWS = (*range(1, 14), 23, 24, 25, 36, 37, 61, 69, 70, 71, 72, 73, 97, 144, 145, 256)


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a floating type's values, as float32."""
    if dtype == "bfloat16":
        return bfloat16(x)
    return np.asarray(x, np.float16 if dtype == "float16" else np.float32).astype(np.float32)


def arrays(
    shape: tuple[int, int, int], dtype: str, stored: str, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return x, two weights and the small tensors, which the types hold exactly."""
    M, I, O = shape  # noqa: E741
    rng = np.random.default_rng([40, seed, M, I, O])
    sizes = {"x": (M, I), "residual": (M, O), "bias": (O,), "norm": (I,)}
    values = {name: rounded(rng.normal(size=size), dtype) for name, size in sizes.items()}
    for name in ("weight", "up"):
        values[name] = rounded(rng.normal(size=(O, I)) / np.sqrt(I), stored)
    return values
