# SPDX-License-Identifier: Apache-2.0
"""Cases of ``noise.normal`` and ``noise.brownian``: lengths around tiles, edges."""

from __future__ import annotations

import numpy as np

# Around a block (4), a tile (32 on AVX2, 64 on AVX-512) and a piece of parallel work (4096).
LENGTHS = (0, 1, 3, 4, 5, 31, 33, 63, 64, 65, 255, 4095, 4097, 8192)
DTYPES = ("float32", "float16", "bfloat16")
SEEDS = np.array([0, 1, 2**32 - 1, 2**32, -1, -(2**63), 2**63 - 1, 0x0123456789ABCDEF])
EDGE_DRAWS = ((0, 0), (2**32 - 1, 2**32 - 1), (7, 16))  # (step, stream)
# Random123's known answers for philox4x32-10: counter, key, words.
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)

# (t0, t1) in [T_MIN, T_MAX]: whole, parts, backwards, empty, one cell, points of no short level.
T_MIN, T_MAX = -1.0, 7.0
TIMES = (
    (-1.0, 7.0),
    (-1.0, 3.0),
    (3.0, 7.0),
    (0.1, 0.9),
    (6.9, -0.3),
    (2.0, 2.0),
    (1.0, 1.0 + 8.0 / 2**20),
    (np.pi, np.e),
)
