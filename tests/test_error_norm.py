# SPDX-License-Identifier: Apache-2.0
"""``solver.error_norm`` against the float64 reference, and the promises of its contract."""

from __future__ import annotations

import numpy as np
import pytest

import fewstep
from cases.solver import DTYPES, Layout
from cases.sums import SUM_LAYOUTS
from harness import Worker
from reference import sums as reference
from test_step import rounded

NAMES = ("error", "before", "after", "minus")


def inputs(shape: tuple[int, ...], minus: bool) -> dict[str, np.ndarray]:
    """States of order 1 and errors of order 0.01."""
    rng = np.random.default_rng([31, *shape])
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name in NAMES}
    if minus:
        arrays["minus"] = (arrays["error"] + 0.01 * arrays["minus"]).astype(np.float32)
    else:
        arrays["error"] *= np.float32(0.01)
        del arrays["minus"]
    return arrays


@pytest.mark.parametrize("layout", SUM_LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("minus", [False, True], ids=["error", "difference"])
@pytest.mark.parametrize("tolerance", ["sum", "max"])
def test_error_norm_matches_reference(
    worker: Worker, layout: Layout, minus: bool, tolerance: str
) -> None:
    arrays = inputs(layout.shape, minus)
    dtypes = [DTYPES[i % 3] for i in range(4)]
    options = {"atol": 0.02, "rtol": 0.05, "tolerance": tolerance}
    got = worker.error_norm(
        arrays=arrays, dtypes=dtypes, offset=layout.offset, gap=layout.gap, **options
    )
    exact = {n: rounded(a, t) for (n, a), t in zip(arrays.items(), dtypes, strict=False)}
    np.testing.assert_allclose(got, reference.error_norm(**exact, **options), rtol=2e-14)


@pytest.mark.parametrize("minus", [False, True], ids=["error", "difference"])
@pytest.mark.parametrize("tolerance", ["sum", "max"])
def test_error_norm_has_the_same_bits_everywhere(
    all_workers: list[Worker], minus: bool, tolerance: str
) -> None:
    arrays = inputs((3, 5 * 65536 + 333), minus)
    call = {"arrays": arrays, "dtypes": ["float32"] * 4, "tolerance": tolerance}
    first = all_workers[0].error_norm(**call)
    for worker in all_workers:
        for threads in (1, 2, 7):
            assert np.array_equal(worker.error_norm(**call, threads=threads), first)
    alone = fewstep.solver.error_norm(
        **{name: a[1:2] for name, a in arrays.items()}, tolerance=tolerance
    )
    assert np.array_equal(alone, first[1:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_error_norm_of_what_is_not_finite(worker: Worker, name: str, value: float) -> None:
    for place in (0, 299):
        arrays = inputs((2, 300), minus=True)
        arrays[name][1, place] = value
        got = worker.error_norm(arrays=arrays, dtypes=["float32"] * 4)
        assert np.isfinite(got[0])
        assert np.isnan(got[1])


def test_error_norm_of_large_states() -> None:
    """What overflows float32 does not overflow here."""
    x = np.full((1, 8), 3e38, np.float32)
    got = fewstep.solver.error_norm(x, x, -x, minus=-x, atol=1e-6, rtol=0.5)
    np.testing.assert_allclose(got, 4.0)


def test_error_norm_kinds() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(2, 3)
    got = fewstep.solver.error_norm(x, x, x, minus=x, atol=1.0)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == torch.float64
    assert torch.equal(got, torch.zeros(2, dtype=torch.float64))
    out, workspace = torch.ones(2, dtype=torch.float64), torch.empty(2, dtype=torch.int64)
    assert (
        fewstep.solver.error_norm(x, x, x, atol=1.0, rtol=1.0, out=out, workspace=workspace) is out
    )
    assert out.tolist() == [0.5, 0.5]
