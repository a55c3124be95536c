# SPDX-License-Identifier: Apache-2.0
"""``tree.attention`` to caches of 8 bits: scales of any size, and what CUDA makes of layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases.attention import DTYPES, problem, rounded, tree_bits
from harness import Worker
from reference import attention as reference
from reference.kv import SCALED
from test_attention import ULP, run, wanted

DRAFTS = ("cache", "view")
SIZES = 10.0 ** np.arange(-6, 5)


def check_rows(worker: Worker, a: dict[str, Any], dtype: str, **options: Any) -> None:
    """Rows are as exact as those of a plain computation, each beside its own largest element."""
    exact, _ = reference.attention(**a)
    half = None if dtype == "float32" else lambda w: rounded(w, dtype)
    plain, _ = reference.attention(plain=True, round_weights=half, **a)
    got = run(worker, a, dtype, out_type="float32", **options)["out"]
    size = np.abs(exact).max(axis=-1)
    error, limit = ((np.abs(x - exact).max(axis=-1) / size).max() for x in (got, plain))
    assert error <= 2 * limit + ULP[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_values_of_any_size_beside_each_other(
    kernel_worker: Worker, dtype: str, deterministic: bool
) -> None:
    """A row of small values is exact where keys that it does not see have large ones."""
    a = problem([(70, 11)], dtype=dtype, cache="int8", tree="star", heads=4, groups=1)
    a["v_scale"][:] = SIZES[0]
    a["v_scale"][0, 70:81, 0] = SIZES
    check_rows(kernel_worker, a, dtype, deterministic=deterministic)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logits", [(0, 0, 0), (-40, -20, 0), (0, -20, -40), (-40, 0, -20)])
@pytest.mark.parametrize("order", [1, -1])
def test_values_of_any_size_one_after_the_other(
    kernel_worker: Worker, dtype: str, logits: tuple[int, ...], order: int
) -> None:
    """The largest weighted value grows and shrinks from tile to tile."""
    a = problem([(192, 3)], dtype=dtype, cache="int8", heads=2, groups=1, draft="view", scale=1.0)
    a["q"][:] = 1.0
    a["k"][:] = 1
    for tile, (logit, size) in enumerate(zip(logits, (1e4, 1.0, 1e-6)[::order], strict=True)):
        keys = slice(64 * tile, 64 * tile + 64)
        a["k_scale"][0, keys] = (logit + np.linspace(-1, 1, 64)[:, None]) / 64
        a["v_scale"][0, keys] = size
    a["draft_k"][:] = -1.0  # logits of -64
    check_rows(kernel_worker, a, dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("draft", DRAFTS)
def test_keys_of_any_size(kernel_worker: Worker, dtype: str, draft: str) -> None:
    a = problem([(150, 3), (40, 20)], dtype=dtype, cache="int8", draft=draft, softcap=30.0)
    rng = np.random.default_rng(3)
    a["k_scale"][:] = rng.choice(SIZES, a["k_scale"].shape)
    check_rows(kernel_worker, a, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_byte_is_itself(kernel_worker: Worker, dtype: str) -> None:
    """Of a single key the value is the result."""
    a = problem([(0, 1)], dtype=dtype, cache="int8", heads=1, groups=1, dim=256)
    a["v"][0, 0, 0] = np.arange(-128, 128)
    a["v_scale"][:] = 0.5
    got = run(kernel_worker, a, dtype)["out"]
    assert np.array_equal(got[0, 0], np.arange(-128, 128) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_of_a_tree_equal_the_tree_at_once(kernel_worker: Worker, dtype: str) -> None:
    """Nor do the scales of keys that a row does not see, and that come later, change a bit."""
    a = problem([(1019, 5)], dtype=dtype, cache="int8", dim=32, page=100)
    a["v_scale"][:] = np.random.default_rng(4).choice(SIZES, a["v_scale"].shape)
    a["bits"] = tree_bits([[-1, 0, 0, 1, 2]])
    at_once = run(kernel_worker, a, dtype, deterministic=True, out_type="float32")
    for first, count in ((0, 1), (1, 2), (3, 2)):
        rows = slice(first, first + count)
        own = {name: a[name][rows] for name in ("q", "bits")}
        own["indptr"] = np.array([0, count], np.int32)
        own["kv_len"] = np.array([1019 + first + count], np.int32)
        own["block"] = np.array([first + count], np.int32)
        got = run(kernel_worker, a | own, dtype, deterministic=True, out_type="float32")
        assert np.array_equal(got["out"], at_once["out"][rows])
        assert np.array_equal(got["lse"], at_once["lse"][rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ["cache", "cache of many rows of 64", "view of many rows of 96"])
@pytest.mark.parametrize("kind", SCALED)
def test_where_rows_lie_changes_no_bit_on_cuda(
    cuda_worker: Worker, kind: str, rows: str, dtype: str
) -> None:
    """Bytes at multiples of 16 are read eight at a time, others one by one."""
    a = wanted(f"{kind} {rows}", dtype)[0]
    for deterministic in (False, True):
        wide = run(cuda_worker, a, dtype, deterministic=deterministic)
        for layout in ({"offset": 1}, {"gap": 3}):
            narrow = run(cuda_worker, a, dtype, deterministic=deterministic, **layout)
            assert np.array_equal(narrow["out"], wide["out"])
            assert np.array_equal(narrow["lse"], wide["lse"])
