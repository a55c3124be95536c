# SPDX-License-Identifier: Apache-2.0
"""``solver.quantile`` against sorting, and the promises of its contract."""

from __future__ import annotations

import numpy as np
import pytest

import fewstep
from cases.solver import DTYPES, Layout
from cases.sums import QS, QUANTILE_LAYOUTS
from harness import Worker
from reference import sums as reference
from test_step import rounded

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("layout", QUANTILE_LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("magnitude", [True, False], ids=["magnitude", "value"])
def test_quantile_matches_reference(worker: Worker, layout: Layout, magnitude: bool) -> None:
    """To the bit, in every type, shape and alignment; nothing else is written."""
    rng = np.random.default_rng(len(layout.name))
    x = rng.normal(size=layout.shape).astype(np.float32)
    for i, q in enumerate(QS):
        dtype = DTYPES[i % 3]
        got = worker.quantile(
            x=x, q=q, dtype=dtype, magnitude=magnitude, offset=layout.offset, gap=layout.gap
        )
        assert np.array_equal(got, reference.quantile(rounded(x, dtype), q, magnitude)), (q, dtype)


# Ranks whose neighbour shares all digits, some of them or none; many equal elements; both zeros.
SPECIAL = (
    [[1.0, 2.0, 3.0, 4.0]],
    [[1.0, np.nextafter(np.float32(1), np.float32(2)), 1e-30, 1e30]],
    [[5.0] * 9],
    [[5.0] * 9 + [6.0] * 9],
    [[-3.0, -2.0, -2.0, -1.0, 0.0, -0.0, 1e-45, -1e-45]],
    [[INF, 1.0, -INF, 2.0, 3.0]],
    [[INF, INF, INF]],
    [[3.4e38, -3.4e38, 3.4e38]],
)


@pytest.mark.parametrize("values", SPECIAL, ids=str)
@pytest.mark.parametrize("magnitude", [True, False], ids=["magnitude", "value"])
def test_quantile_of_special_values(worker: Worker, values: list, magnitude: bool) -> None:
    x = np.array(values, np.float32)
    count = x.shape[1]
    for k in range(2 * count - 1):  # on every element and between every two
        q = k / (2 * count - 2)
        got = worker.quantile(x=x, q=q, magnitude=magnitude)
        with np.errstate(invalid="ignore"):
            wanted = reference.quantile(x, q, magnitude)
        assert np.array_equal(got, wanted, equal_nan=True), q


@pytest.mark.parametrize("nan", [NAN, -NAN], ids=["positive", "negative"])
def test_quantile_of_a_nan_is_nan(worker: Worker, nan: float) -> None:
    x = np.ones((3, 70_000), np.float32)
    x[1, 69_999] = np.copysign(np.float32(NAN), np.float32(nan))
    for magnitude in (True, False):
        got = worker.quantile(x=x, q=0.25, magnitude=magnitude)
        assert np.array_equal(got, [1.0, NAN, 1.0], equal_nan=True)


def test_quantile_does_not_depend_on_threads_or_batch(worker: Worker) -> None:
    rng = np.random.default_rng(3)
    for shape in ((2, 400_001), (50, 300)):
        x = rng.normal(size=shape).astype(np.float32)
        one, two, seven = (worker.quantile(x=x, q=0.9, threads=n) for n in (1, 2, 7))
        assert np.array_equal(one, two)
        assert np.array_equal(one, seven)
        assert np.array_equal(worker.quantile(x=x[1:2], q=0.9), one[1:2])


def test_quantile_beyond_torch() -> None:
    """More than 2**24 elements, which torch refuses, and a position that float32 cannot hold."""
    count = 2**24 + 7
    x = np.arange(count, dtype=np.int32).view(np.float32)[None]  # ascending, all different
    got = fewstep.solver.quantile(x, 0.75)
    position = 0.75 * (count - 1)
    low = int(position)
    wanted = x[0, low] + (position - low) * (x[0, low + 1].astype(float) - x[0, low])
    assert got[0] == np.float32(wanted)


@pytest.mark.parametrize("q", QS)
def test_quantile_equals_torch(q: float) -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(np.random.default_rng(7).normal(size=(4, 3, 1000)).astype(np.float32))
    got = fewstep.solver.quantile(x, q)
    wanted = torch.quantile(x.abs().flatten(1), q, dim=1)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)  # torch's position is float32
    exact = torch.quantile(x.abs().flatten(1).double(), q, dim=1)
    torch.testing.assert_close(got.double(), exact, rtol=1e-7, atol=0.0)


def test_quantile_kinds() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(2, 2, 3)
    got = fewstep.solver.quantile(x, 0.5)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == torch.float32
    out, workspace = torch.empty(2), torch.empty(2 * (4 + 1024), dtype=torch.int64)
    assert fewstep.solver.quantile(x, 0.5, out=out, workspace=workspace) is out
    assert torch.equal(out, got)
    assert isinstance(fewstep.solver.quantile(x.numpy(), 0.5), np.ndarray)
