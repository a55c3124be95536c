# SPDX-License-Identifier: Apache-2.0
"""``tree.attention`` of 64 rows and more by CUDA kernels, where warpgroups multiply on sm_90a."""

from __future__ import annotations

import numpy as np
import pytest

from cases.attention import MANY_ROWS, problem, rounded
from harness import Worker
from reference import attention as reference
from test_attention import ULP, run


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("name", MANY_ROWS)
def test_matches_float64(cuda_worker: Worker, name: str, dim: int, dtype: str) -> None:
    case = {"groups": 1, **MANY_ROWS[name]}
    a = problem(case.pop("requests"), dtype=dtype, dim=dim, seed=len(name), **case)
    exact, lse = reference.attention(**a)
    plain, plain_lse = reference.attention(
        plain=True, round_weights=lambda w: rounded(w, dtype), **a
    )
    got = run(cuda_worker, a, dtype, out_type="float32")
    error = np.abs(plain - exact).max()
    assert error < 0.05
    assert np.abs(got["out"] - exact).max() <= 2 * error + ULP[dtype] * np.abs(exact).max()
    limit = 2 * np.abs(plain_lse - lse).max() + 2.0**-22 * max(1.0, np.abs(lse).max())
    assert np.abs(got["lse"] - lse).max() <= limit
