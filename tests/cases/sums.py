# SPDX-License-Identifier: Apache-2.0
"""Cases of the solver family's reductions: sizes around lanes, chunks and pieces, and contents."""

from __future__ import annotations

import numpy as np

from cases.solver import Layout

# Around the lanes (16), the chunks (256), the pieces (4096) and the strands (64 pieces).
SUM_LAYOUTS = (
    Layout((0, 8)),
    Layout((2, 0)),
    Layout((1, 1)),
    Layout((3, 7), gap=3),
    Layout((2, 16)),
    Layout((2, 3, 5, 17), offset=1, gap=1),
    Layout((1, 257), offset=3),
    Layout((2, 4095), gap=5),
    Layout((1, 4096)),
    Layout((3, 4097), offset=1, gap=7),
    Layout((2, 3 * 4096 + 300)),
    Layout((1, 66 * 4096 + 5)),
)


def normals(count: int, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Arrays with a common part, as model outputs have, so that differences nearly cancel."""
    rng = np.random.default_rng([30, seed])
    common = rng.normal(size=shape)
    return [
        (common + 0.01 * k * rng.normal(size=shape) + 0.1).astype(np.float32) for k in range(count)
    ]


# Around the blocks of keys (256), a thread's slice (65536) and 16 of them.
QUANTILE_LAYOUTS = (
    Layout((0, 8)),
    Layout((1, 1)),
    Layout((2, 2)),
    Layout((3, 7), gap=3),
    Layout((2, 3, 5, 17), offset=1, gap=1),
    Layout((1, 257), offset=3),
    Layout((3, 4097), offset=1, gap=7),
    Layout((2, 65536)),
    Layout((2, 65537), gap=5),
    Layout((1, 17 * 65536 + 5), offset=1),
)
QS = (0.0, 1.0, 0.5, 0.995, 1 / 3)
