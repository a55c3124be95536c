# SPDX-License-Identifier: Apache-2.0
"""``kv.gather``, ``kv.copy_pages`` and ``kv.truncate`` against references, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest

import fewstep
from cases.kv import LAYOUTS, Case
from harness import Worker
from reference import kv as reference
from test_kv import same

DTYPES = ("bfloat16", "int8", "float8_e4m3fn")


def kept(rng: np.random.Generator, slots: int, M: int) -> tuple[np.ndarray, int]:
    """Return increasing slots, padded, and their number."""
    n = int(rng.integers(0, min(M, slots) + 1))
    index = np.full(M, -1, np.int32)
    index[:n] = np.sort(rng.permutation(slots)[:n])
    return index, n


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("T", [1, 3, 0])
def test_gather_keeps_the_listed_tokens(
    worker: Worker, layout: str, dtype: str, by_layer: bool, T: int
) -> None:
    case = Case((20, 3, 0, 70), (0,) * 4, G=2, D=24, T=T or 70, paged=T > 0, layout=layout)
    layers = [case.cache(dtype, seed) for seed in range(3)]
    rng = np.random.default_rng(4)
    lists = [[kept(rng, rows, 70) for rows in case.rows] for _ in range(3 if by_layer else 1)]
    index = np.array([[i for i, _ in layer] for layer in lists], np.int32)
    count = np.array([[n for _, n in layer] for layer in lists], np.int32)
    if not by_layer:
        index, count = index[0], count[0]
    got = worker.kv(
        verb="layers_of", op="gather", layers=layers, dtype=dtype, index=index, count=count,
        page_table=case.table(), layout=layout, threads=2,
    )  # fmt: skip
    for i, (after, before) in enumerate(zip(got, layers, strict=True)):
        own = (index[i], count[i]) if by_layer else (index, count)
        same(after, reference.gather(before, *own, table=case.table()))


def test_gather_of_more_layers_than_a_launch_has(worker: Worker) -> None:
    case = Case((9, 4), (0, 0), G=1, D=8, T=4)
    layers = [case.cache("bfloat16", seed) for seed in range(170)]
    rng = np.random.default_rng(6)
    lists = [[kept(rng, rows, 9) for rows in case.rows] for _ in layers]
    index = np.array([[i for i, _ in layer] for layer in lists], np.int32)
    count = np.array([[n for _, n in layer] for layer in lists], np.int32)
    got = worker.kv(
        verb="layers_of", op="gather", layers=layers, dtype="bfloat16", index=index, count=count,
        page_table=case.table(),
    )  # fmt: skip
    for i, (after, before) in enumerate(zip(got, layers, strict=True)):
        same(after, reference.gather(before, index[i], count[i], table=case.table()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_pages(worker: Worker, layout: str, dtype: str) -> None:
    """In order, so that a page may be copied on; -1 is no page."""
    case = Case((20, 3), (0, 0), G=3, D=17, T=5, layout=layout, gap=3, offset=1)
    layers = [case.cache(dtype, seed) for seed in range(2)]
    pairs = np.array([[3, 1], [1, 0], [-1, 99], [7, 3]], np.int32)
    given = {"source": pairs[:, 0].copy(), "target": pairs[:, 1].copy()}
    got = worker.kv(
        verb="layers_of", op="copy_pages", layers=layers, dtype=dtype, layout=layout, gap=3,
        offset=1, **given,
    )  # fmt: skip
    for after, before in zip(got, layers, strict=True):
        same(after, reference.copy_pages(before, **given))


def test_truncate() -> None:
    length = np.array([7, 9, 5, 9, 0, 9], np.int32)
    kept_ = np.array([7, 2, 0], np.int32)
    wanted = reference.truncate(length[::2], kept_)
    fewstep.kv.truncate(length[::2], np.minimum(kept_, length[::2]))
    assert length[::2].tolist() == wanted.tolist()
    assert length[1::2].tolist() == [9, 9, 9]
