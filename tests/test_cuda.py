# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels against the CPU's, bit by bit, where the other tests' cases are too small to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from cases.noise import DTYPES as NOISE_DTYPES
from cases.noise import EDGE_DRAWS, SEEDS
from cases.solver import DTYPES, LAYOUTS, arrays, random_problem
from harness import CUDA, Worker

# Beyond one wave of blocks; odd, so that samples lose their alignment.
LARGE = ((1, 4_000_037), (3, 1_000_003), (1000, 1025), (70_000, 9))


@pytest.fixture
def reference(workers: dict[str, Worker]) -> Worker:
    """The CPU's kernels: those of the widest instruction set, which test_step.py has checked."""
    return workers[fewstep.info()["cpu"]["available"][-1]]


def equal(name: str, got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal bits; every NaN is as good as another."""
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    if got.tobytes() == wanted.tobytes():
        return
    kind = {4: np.uint32, 2: np.uint16}[got.dtype.itemsize]
    differ = got.view(kind) != wanted.view(kind)
    if got.dtype.kind == "f":
        differ &= ~(np.isnan(got) & np.isnan(wanted))
    at = np.argwhere(differ)
    assert not len(at), (
        f"{name}: {len(at)} of {got.size} differ, the first at {at[0].tolist()}: "
        f"{got[tuple(at[0])]!r} instead of {wanted[tuple(at[0])]!r}"
    )


def both(name: str, worker: Worker, reference: Worker, **given: Any) -> None:
    got, wanted = worker.step(**given), reference.step(**given)
    assert got.keys() == wanted.keys()
    for key in got:
        if key != "bits":  # of the model input, whose values are compared
            equal(f"{name}, {key}", got[key], wanted[key])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_step_has_the_cpus_bits(
    cuda_worker: Worker, reference: Worker, layout: Any, dtype: str
) -> None:
    for seed in range(8 if cuda_worker.isa == CUDA else 2):
        given = arrays(random_problem(300 * LAYOUTS.index(layout) + seed), layout.shape, seed)
        given |= {"dtype": dtype, "offset": layout.offset, "gap": layout.gap}
        both(f"seed {seed}", cuda_worker, reference, **given)


@pytest.mark.parametrize("shape", LARGE)
def test_large_steps_have_the_cpus_bits(
    cuda_worker: Worker, reference: Worker, shape: tuple[int, ...]
) -> None:
    for seed, offset in ((1, 0), (2, 3))[: 2 if cuda_worker.isa == CUDA else 1]:
        given = arrays(random_problem(700 + seed), shape, seed)
        both(f"seed {seed}", cuda_worker, reference, **given, dtype="bfloat16", offset=offset)


def test_special_values_come_out_alike(cuda_worker: Worker, reference: Worker) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 3e38, -65504.0], np.float32)
    for seed in range(12):
        given = arrays(random_problem(900 + seed), (2, 64), seed)
        rng = np.random.default_rng(seed)
        for values in (given["state"], given["known"], *given["models"]):
            values[rng.random(values.shape) < 0.2] = rng.choice(special)
        both(f"seed {seed}", cuda_worker, reference, **given, dtype=DTYPES[seed % 3])


@pytest.mark.parametrize("dtype", NOISE_DTYPES)
@pytest.mark.parametrize(("step", "stream"), EDGE_DRAWS)
def test_normals_have_the_cpus_bits(
    cuda_worker: Worker, reference: Worker, dtype: str, step: int, stream: int
) -> None:
    for seeds, length, offset in ((SEEDS[:1], 4_000_037, 0), (SEEDS, 100_003, 1)):
        given: dict[str, Any] = {"seeds": seeds, "shape": (length,), "dtype": dtype}
        given |= {"step": step, "stream": stream, "offset": offset, "gap": 3, "scale": 1.25}
        equal("normals", cuda_worker.normal(**given), reference.normal(**given))


def test_the_radius_is_the_cpus_everywhere(cuda_worker: Worker, reference: Worker) -> None:
    """A hundred million draws on a GPU: whatever logarithm, root and cosine meet."""
    for part in range(4 if cuda_worker.isa == CUDA else 1):
        seeds = np.arange(8 * part, 8 * part + 8)
        given: dict[str, Any] = {"seeds": seeds, "shape": (3_125_000,)}
        equal("normals", cuda_worker.normal(**given), reference.normal(**given))
