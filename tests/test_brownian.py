# SPDX-License-Identifier: Apache-2.0
"""``noise.brownian``: midpoint displacement, the law of the motion, the same bits everywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import stats

import fewstep
from cases.noise import DTYPES, LENGTHS, SEEDS, T_MAX, T_MIN, TIMES
from harness import Worker
from reference import noise as reference

brownian = fewstep.noise.brownian
ENDS = {"t_min": T_MIN, "t_max": T_MAX}
STREAM = fewstep.noise.STREAM_BROWNIAN


def floats(bits: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """What the harness returns, as float32 values."""
    import torch

    return torch.from_numpy(bits).view(getattr(torch, dtype)).float().numpy()


def exact(seed: int, t0: float, t1: float, count: int, depth: int) -> np.ndarray:
    """The increment by two descents of the reference."""
    given: dict[str, Any] = {**ENDS, "depth": depth, "stream": STREAM}
    ends = [reference.brownian(seed, t, count, **given) for t in (t0, t1)]
    return ends[1] - ends[0]


@pytest.mark.parametrize("depth", [1, 2, 7, 20, 30])
@pytest.mark.parametrize(("t0", "t1"), TIMES)
def test_brownian_matches_midpoint_displacement(
    worker: Worker, t0: float, t1: float, depth: int
) -> None:
    count = 133
    got = floats(
        worker.brownian(seeds=SEEDS[:3], t0=t0, t1=t1, shape=(count,), depth=depth, **ENDS)
    )
    for seed, row in zip(SEEDS[:3], got, strict=True):
        wanted = exact(int(seed), t0, t1, count, depth)
        # Up to 61 terms, each below 3 and rounded as a float32 sum of that size is.
        assert np.abs(row - wanted).max() < 4e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_brownian_bits(workers: Any, worker: Worker, length: int, dtype: str) -> None:
    """Every kernel, thread count, memory layout and batch gives the scalar kernel's bits."""
    times = np.array(TIMES)[: len(SEEDS)]
    given = {"t0": times[:, 0].copy(), "t1": times[:, 1].copy(), **ENDS}
    shape = {"shape": (length,), "dtype": dtype}
    plain = workers["scalar"].brownian(seeds=SEEDS, **given, **shape)
    got = worker.brownian(seeds=SEEDS, **given, **shape, threads=2, offset=length % 3, gap=5)
    assert np.array_equal(got, plain)
    for b in (0, 3):
        alone = worker.brownian(
            seeds=SEEDS[b : b + 1], t0=TIMES[b][0], t1=TIMES[b][1], **ENDS, **shape
        )
        assert np.array_equal(alone[0], plain[b])


def test_parts_add_up_to_the_whole(worker: Worker) -> None:
    """Refinement: however an interval is divided, and in whatever order it is asked."""
    times = np.sort(np.random.default_rng(3).uniform(T_MIN, T_MAX, 12))
    given = {"seeds": SEEDS, "shape": (257,), **ENDS}
    draw = [floats(worker.brownian(t0=float(a), t1=float(b), **given)) for a, b in pairwise(times)]
    whole = floats(worker.brownian(t0=float(times[0]), t1=float(times[-1]), **given))
    assert np.abs(sum(draw) - whole).max() < 2e-5
    back = floats(worker.brownian(t0=float(times[-1]), t1=float(times[0]), **given))
    assert np.array_equal(back, -whole)


@pytest.mark.parametrize("depth", [3, 20])
def test_law_of_increments(depth: int) -> None:
    """Independent normals with the intervals as variances, at times of no special kind."""
    points = T_MIN + (T_MAX - T_MIN) * np.array([0.0, 0.125, 0.25, 0.625, 1.0])
    if depth > 3:
        points[1:-1] += [0.01, 0.13, -0.07]
    count = 40_000
    draws = np.stack(
        [brownian([5], a, b, (count,), depth=depth, **ENDS)[0] for a, b in pairwise(points)]
    ).astype(np.float64)
    scaled = draws / np.sqrt(np.diff(points))[:, None]
    covariance = scaled @ scaled.T / count
    assert np.abs(covariance - np.eye(len(scaled))).max() < 5 * np.sqrt(2 / count)
    for row in scaled:
        assert stats.kstest(row, "norm").pvalue > 1e-3


def test_normalized_is_divided_by_the_root_of_the_interval() -> None:
    for t0, t1 in TIMES:
        plain = brownian([7], t0, t1, (64,), **ENDS)
        unit = brownian([7], t0, t1, (64,), normalized=True, scale=2.0, **ENDS)
        if t0 == t1:
            assert not plain.any()
            assert not unit.any()
            continue
        cells = np.floor((np.array([t0, t1]) - T_MIN) / (T_MAX - T_MIN) * 2**20 + 0.5)
        length = abs(cells[1] - cells[0]) * (T_MAX - T_MIN) / 2**20
        np.testing.assert_allclose(unit, 2 * plain / np.sqrt(length), rtol=2e-5, atol=2e-5)


def test_streams_and_seeds_have_motions_of_their_own() -> None:
    base = brownian([5], 0.0, 1.0, (20_000,))[0].astype(np.float64)
    for other in (
        brownian([6], 0.0, 1.0, (20_000,))[0],
        brownian([5], 0.0, 1.0, (20_000,), stream=99)[0],
    ):
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(20_000)


def test_kinds_of_arrays() -> None:
    import torch

    times = torch.tensor([0.25, 0.5], dtype=torch.float64)
    tensor = brownian(torch.tensor([1, 2]), times, 1.0, (3, 5))
    assert isinstance(tensor, torch.Tensor)
    array = brownian([1, 2], [0.25, 0.5], [1, 1], (3, 5))
    np.testing.assert_array_equal(tensor.numpy(), array)
