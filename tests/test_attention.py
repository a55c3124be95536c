# SPDX-License-Identifier: Apache-2.0
"""``tree.attention`` against float64 on every ISA, over the case table."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import fewstep
from cases.attention import CASES, DTYPES, cache_dtype, problem, rounded
from harness import Worker
from reference import attention as reference
from reference.kv import e4m3_values

ULP = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ARRAYS = ("q", "k", "v", "draft_k", "draft_v")
KINDS = {"k_scale": "float32", "v_scale": "float32", "sinks": "float32"}


def run(worker: Worker, a: dict[str, Any], dtype: str, **more: Any) -> dict[str, np.ndarray]:
    """Run the op on arrays between guard bands; returns out, lse and the bits of out."""
    inputs, options = {}, {}
    for name, value in a.items():
        if not isinstance(value, np.ndarray):
            options[name] = value
        elif name in ARRAYS:
            inputs[name] = (value, cache_dtype(a, dtype) if name in ("k", "v") else dtype)
        else:
            inputs[name] = (value, KINDS.get(name, "int32"))
    out_type = more.pop("out_type", dtype)
    shape = a["q"].shape
    layout = {key: more.pop(key) for key in ("threads", "offset", "gap") if key in more}
    return worker.run(
        op="tree.attention",
        inputs=inputs,
        outputs={"out": (shape, out_type), "lse": (shape[:2], "float32")},
        options=options | more,
        **layout,
    )


@cache
def wanted(name: str, dtype: str) -> tuple[dict[str, Any], Any, Any, float, float]:
    """Return a case's arguments, its exact out and lse, and the errors of a plain computation."""
    case = dict(CASES[name])
    a = problem(case.pop("requests"), dtype=dtype, seed=len(name), **case)
    exact, lse = reference.attention(**a)
    half = None if dtype == "float32" else lambda w: rounded(w, dtype)
    plain, plain_lse = reference.attention(plain=True, round_weights=half, **a)
    error = np.abs(rounded(plain, dtype) - exact).max(initial=0.0)
    finite = np.isfinite(lse)
    return a, exact, lse, error, np.abs(plain_lse - lse)[finite].max(initial=0.0)


@pytest.mark.parametrize("name", CASES)
def test_matches_float64(kernel_worker: Worker, name: str) -> None:
    for index, dtype in enumerate(DTYPES):
        a, exact, lse, error, lse_error = wanted(name, dtype)
        layout = {"offset": index % 2, "gap": 3 * (index % 2), "deterministic": index == 2}
        if not len(a["q"]):
            layout["gap"] = 0
        got = run(kernel_worker, a, dtype, **layout)
        ulp = ULP[dtype] * np.abs(exact).max(initial=0.0)
        assert np.abs(got["out"] - exact).max(initial=0.0) <= 2 * error + ulp
        finite = np.isfinite(lse)
        assert np.array_equal(np.isfinite(got["lse"]), finite)
        limit = 2 * lse_error + 2.0**-23 * max(1.0, np.abs(lse[finite]).max(initial=0.0))
        assert np.abs(got["lse"] - lse)[finite].max(initial=0.0) <= limit


@pytest.mark.parametrize(
    "name",
    ["ragged cache", "pages of 3 view", "int8 view", "float8_e4m3fn view", "everything"],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_on_every_isa(workers: dict[str, Worker], name: str, dtype: str) -> None:
    """All but bfloat16 where AVX512-BF16 multiplies it, which caches of bytes do not use."""
    a = wanted(name, dtype)[0]
    exempt = cache_dtype(a, dtype) == "bfloat16"
    isas = [i for i in fewstep.info()["cpu"]["available"] if not (exempt and i == "avx512_bf16")]
    results = [run(workers[isa], a, dtype) for isa in isas]
    for other in results[1:]:
        assert np.array_equal(other["out"], results[0]["out"])
        assert np.array_equal(other["lse"], results[0]["lse"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float8_number_is_read_exactly(kernel_worker: Worker, dtype: str) -> None:
    """A row that sees one key has its value, here the 256 codes: also subnormals and NaN.

    Only a scale may be rounded, with the weight that it multiplies.
    """
    numbers = e4m3_values().astype(np.float32)
    a = problem([(1, 1)], dim=256, heads=1, groups=1, draft="none", cache="float8_e4m3fn")
    a |= {"q": np.zeros_like(a["q"]), "v": np.broadcast_to(numbers, a["v"].shape)}
    for scale in (1.0, 0.3, 2.0**-130):
        a["v_scale"] = np.full_like(a["v_scale"], scale)
        got = run(kernel_worker, a, dtype, out_type="float32")["out"][0, 0]
        rounding = ULP[dtype] if scale == 0.3 else 0.0
        np.testing.assert_allclose(got, numbers * np.float32(scale), rtol=rounding, atol=0.0)


def test_float32_out(kernel_worker: Worker) -> None:
    """Rounding it gives the bits of the narrow one."""
    a = wanted("tree cache", "bfloat16")[0]
    wide = run(kernel_worker, a, "bfloat16", out_type="float32")["out"]
    assert np.array_equal(rounded(wide, "bfloat16"), run(kernel_worker, a, "bfloat16")["out"])
    assert not np.array_equal(rounded(wide, "bfloat16"), wide)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page", [1, 5, 64, 130])
def test_pages_and_views_change_no_bit(kernel_worker: Worker, page: int, dtype: str) -> None:
    a = problem([(200, 9), (31, 4), (0, 1)], dtype=dtype, tree="random")
    flat = run(kernel_worker, a, dtype)
    length = int(a["kv_len"].max())
    pages = (length + page - 1) // page
    order = np.random.default_rng(5).permutation(3 * pages).reshape(3, pages)
    paged = dict(a, page_table=order.astype(np.int32))
    for name in ("k", "v"):
        store = np.zeros((3 * pages, page, *a[name].shape[2:]), np.float32)
        for b in range(3):
            for i in range(int(a["kv_len"][b])):
                store[order[b, i // page], i % page] = a[name][b, i]
        paged[name] = store
    assert np.array_equal(run(kernel_worker, paged, dtype)["out"], flat["out"])
    apart = dict(paged, draft="view", kv_len=a["kv_len"] - np.diff(a["indptr"]).astype(np.int32))
    for name in ("k", "v"):
        own = [a[name][b, apart["kv_len"][b] : a["kv_len"][b]] for b in range(len(a["kv_len"]))]
        apart[f"draft_{name}"] = np.concatenate(own)
    assert np.array_equal(run(kernel_worker, apart, dtype)["out"], flat["out"])


def test_nan_and_infinite_keys_reach_their_rows_only(kernel_worker: Worker) -> None:
    """A key that no row of a request sees, and other requests' tokens, change nothing."""
    a = problem([(100, 3), (50, 2)], tree="star")
    before = run(kernel_worker, a, "float32")["out"]
    a["k"][0, 101] = np.nan  # node 1's own key
    a["k"][1, 60:] = np.inf  # behind the second request's end
    a["v"][1, 60:] = np.nan
    after = run(kernel_worker, a, "float32")["out"]
    assert np.isnan(after[1]).all()
    assert np.array_equal(np.delete(after, 1, 0), np.delete(before, 1, 0))
