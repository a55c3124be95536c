# SPDX-License-Identifier: Apache-2.0
"""``solver.gram`` and ``solver.error_norm``: precise sums, and the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest

import fewstep
from cases.solver import DTYPES, Layout
from cases.sums import SUM_LAYOUTS, normals
from harness import Worker
from reference import sums as reference
from test_step import rounded

# A sum of n float64 numbers in this order has an error of at most about log2(n) + 32 roundings.
ROUNDINGS = 50 * 2.0**-53


def bound(arrays: list[np.ndarray]) -> np.ndarray:
    """What the error of each entry may be: roundings of the sum of its terms' magnitudes."""
    return ROUNDINGS * reference.gram([np.abs(a) for a in arrays])


@pytest.mark.parametrize("layout", SUM_LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_gram_matches_reference(worker: Worker, layout: Layout, count: int) -> None:
    """Every shape, alignment and mixture of types; nothing else is written."""
    dtypes = [DTYPES[(k + count) % 3] for k in range(count)]
    arrays = normals(count, layout.shape)
    got = worker.gram(arrays=arrays, dtypes=dtypes, offset=layout.offset, gap=layout.gap)
    exact = [rounded(a, t) for a, t in zip(arrays, dtypes, strict=True)]
    wanted = reference.gram(exact)
    assert got.shape == wanted.shape
    assert (np.abs(got - wanted) <= bound(exact)).all()
    assert np.array_equal(got, got.transpose(0, 2, 1))
    elements = int(np.prod(layout.shape[1:]))
    assert (got[:, 0, 0] == elements).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_gram_has_the_same_bits_on_every_isa(all_workers: list[Worker], count: int) -> None:
    dtypes = ["float32", "bfloat16", "float16", "float32"][:count]
    arrays = normals(count, (3, 5 * 4096 + 333))
    results = [w.gram(arrays=arrays, dtypes=dtypes) for w in all_workers]
    for other in results[1:]:
        assert np.array_equal(results[0], other)


def test_gram_has_the_same_bits_on_any_number_of_threads(worker: Worker) -> None:
    for shape in ((2, 300_001), (3000, 65)):
        arrays = normals(2, shape)
        one, two, seven = (
            worker.gram(arrays=arrays, dtypes=["float32"] * 2, threads=threads)
            for threads in (1, 2, 7)
        )
        assert np.array_equal(one, two)
        assert np.array_equal(one, seven)


def test_gram_does_not_depend_on_the_batch() -> None:
    arrays = normals(3, (5, 9000))
    together = fewstep.solver.gram(arrays)
    for b in range(5):
        alone = fewstep.solver.gram([a[b : b + 1] for a in arrays])
        assert np.array_equal(alone[0], together[b])


def test_gram_takes_joined_outputs(worker: Worker) -> None:
    arrays = normals(3, (4, 1000))
    apart = worker.gram(arrays=arrays, dtypes=["float16"] * 3)
    assert np.array_equal(
        worker.gram(arrays=arrays, dtypes=["float16"] * 3, together=True, gap=3), apart
    )
    joined = np.concatenate(arrays[:2])
    mixed = fewstep.solver.gram([joined, arrays[2]], split=2)
    assert np.array_equal(mixed, fewstep.solver.gram(arrays))


def test_gram_of_a_difference_keeps_its_digits() -> None:
    """What float32 sums would lose: outputs that agree in four digits."""
    rng = np.random.default_rng(5)
    cond = rng.normal(size=(1, 65536)).astype(np.float32)
    uncond = (cond + 1e-4 * rng.normal(size=cond.shape)).astype(np.float32)
    g = fewstep.solver.gram([cond, uncond])[0]
    exact = ((cond.astype(np.float64) - uncond) ** 2).sum()
    assert abs(g[1, 1] - 2 * g[1, 2] + g[2, 2] - exact) < 1e-5 * exact


def test_gram_of_special_values() -> None:
    arrays = np.array([[1.0, -np.inf], [np.nan, 1.0], [3e38, 3e38]], np.float32)
    g = fewstep.solver.gram(arrays)
    assert g[0, 0, 1] == -np.inf
    assert g[0, 1, 1] == np.inf
    assert np.isnan(g[1, 0, 1])
    assert np.isnan(g[1, 1, 1])
    big = float(np.float32(3e38))
    assert g[2, 1, 1] == 2 * big**2  # beyond float32


def test_gram_kinds() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(12.0).reshape(2, 2, 3)
    g = fewstep.solver.gram((x, x.bfloat16()))
    assert isinstance(g, torch.Tensor)
    assert g.dtype == torch.float64
    assert g.shape == (2, 3, 3)
    assert fewstep.solver.gram(x.numpy()).dtype == np.float64
    needed = 2 * 2  # pieces times entries
    workspace = torch.empty(needed, dtype=torch.int64)
    out = torch.empty(2, 2, 2, dtype=torch.float64)
    assert fewstep.solver.gram(x, out=out, workspace=workspace) is out
    assert torch.equal(out, g[:, :2, :2])
    assert fewstep.solver.gram(x[:0]).shape == (0, 2, 2)
