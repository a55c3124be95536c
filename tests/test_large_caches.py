# SPDX-License-Identifier: Apache-2.0
"""Pages of a cache more than 2^31 elements apart: the ops do what they do to pages that are near.

The memory is reserved, not filled: only the pages that are used take any.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep

PAGES, T, G, D = 4, 3, 2, 16
PITCH = 2**30 + 64  # elements from page to page: the third page is past 2^31
TABLE = np.array([[3, 2, 0, 1]], np.int32)
Caches = tuple[np.ndarray, np.ndarray]


def far(dtype: type) -> np.ndarray:
    size = np.dtype(dtype).itemsize
    memory = np.zeros((PAGES - 1) * PITCH + T * G * D, dtype)
    steps = (PITCH * size, G * D * size, D * size, size)
    return np.lib.stride_tricks.as_strided(memory, (PAGES, T, G, D), steps)


def near(dtype: type) -> np.ndarray:
    return np.zeros((PAGES, T, G, D), dtype)


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def used(caches: Caches, scales: dict[str, Any]) -> list[np.ndarray]:
    """Write, attend, commit, gather, copy and send; return what came of each."""
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(3, 11, G, D)).astype(np.float32 if scales else np.float16)
    given = {"page_table": TABLE} | scales
    seen = []

    def call(op: Any, *args: Any, **options: Any) -> None:
        seen.append(op(*caches, *args, **options))
        seen.extend(cache.copy() for cache in caches)

    q = rows[2, :2].repeat(2, 1)
    fewstep.kv.append(rows[0], rows[1], *caches, int32(0, 11), int32(0), **given)
    seen += [fewstep.tree.attention(q, *caches, int32(11), int32(0, 2), **given)]
    call(fewstep.kv.commit, int32(2, 4, 5)[None], int32(3), int32(3), **given)
    call(fewstep.kv.gather, int32(0, 2, 4, 8)[None], int32(4), **given)
    call(fewstep.kv.copy_pages, int32(3, 0), int32(1, 2), **scales)
    call(fewstep.kv.export_tokens, 0, 8, **given)
    fewstep.kv.import_tokens(seen[-3], *caches, 4, **given)
    return seen + [cache.copy() for cache in caches]


@pytest.mark.large
@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_far_pages_are_used_as_near_ones(dtype: type) -> None:
    def scales() -> dict[str, Any]:
        names = ("k_scale", "v_scale") if dtype is np.int8 else ()
        return {name: np.zeros((PAGES, T, G), np.float32) for name in names}

    got = used((far(dtype), far(dtype)), scales())
    wanted = used((near(dtype), near(dtype)), scales())
    assert wanted[0].any()
    for one, other in zip(got, wanted, strict=True):
        assert np.array_equal(one, other)
