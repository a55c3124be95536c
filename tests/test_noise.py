# SPDX-License-Identifier: Apache-2.0
"""``noise.normal``: the published generator, the right distribution, the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import fewstep
from cases.noise import DTYPES, EDGE_DRAWS, KNOWN_ANSWERS, LENGTHS, SEEDS
from harness import Worker
from reference import noise as reference

normal = fewstep.noise.normal


def floats(bits: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """What `harness.normal` returns, as float32 values."""
    import torch

    return torch.from_numpy(bits).view(getattr(torch, dtype)).float().numpy()


def test_reference_is_the_published_philox() -> None:
    for counter, key, words in KNOWN_ANSWERS:
        got = reference.philox([np.array([c], np.uint64) for c in counter], key)
        assert tuple(int(w[0]) for w in got) == words


def test_normal_follows_the_published_philox(worker: Worker) -> None:
    """A known answer of the generator, met in the normals: seed and counter are the vectors'."""
    for counter, key, words in KNOWN_ANSWERS:
        if counter[0] or counter[1]:
            continue  # a block that far into a sample has no memory to hold it
        seed = np.array([key[0] | key[1] << 32])
        got = floats(worker.normal(seeds=seed, shape=(4,), step=counter[2], stream=counter[3]))[0]
        for half in (0, 2):
            radius = np.sqrt(-2 * np.log((words[half] + 0.5) / 2**32))
            angle = 2 * np.pi * words[half + 1] / 2**32
            exact = radius * np.cos(angle), radius * np.sin(angle)
            assert np.allclose(got[half : half + 2], exact, rtol=1e-6)


@pytest.mark.parametrize(("step", "stream"), EDGE_DRAWS)
def test_normal_matches_reference(worker: Worker, step: int, stream: int) -> None:
    """Errors stay within a few units in the last place of the Box-Muller radius' product."""
    count = 16384 + 5
    got = floats(worker.normal(seeds=SEEDS, shape=(count,), step=step, stream=stream))
    for seed, row in zip(SEEDS, got, strict=True):
        exact = reference.normal(int(seed), count, step=step, stream=stream)
        # The product of a radius and a cosine, each rounded a few times.
        unit = np.spacing(np.abs(exact).astype(np.float32))
        assert np.abs(row - exact).max() <= 4e-7 * 2
        assert (np.abs(row - exact) / unit).max() < 6
        assert (np.abs(row - exact) / unit).mean() < 0.7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_normal_prefixes_agree(worker: Worker, dtype: str, length: int) -> None:
    """Any length, alignment, stride and type hold the same numbers; nothing else is written."""
    long = floats(worker.normal(seeds=SEEDS[:3], shape=(max(LENGTHS),)))[:, :length]
    import torch

    wanted = torch.from_numpy(long.copy()).to(getattr(torch, dtype)).float().numpy()
    got = worker.normal(seeds=SEEDS[:3], shape=(length,), dtype=dtype, offset=length % 3, gap=5)
    assert np.array_equal(floats(got, dtype), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_has_the_same_bits_on_every_isa(all_workers: list[Worker], dtype: str) -> None:
    arguments = {"seeds": SEEDS, "shape": (50, 201), "dtype": dtype, "scale": 1.7, "step": 9}
    results = [worker.normal(**arguments) for worker in all_workers]
    for other in results[1:]:
        assert np.array_equal(results[0], other)


def test_normal_has_the_same_bits_on_any_number_of_threads(worker: Worker) -> None:
    for seeds, shape in ((SEEDS, (40000,)), (np.arange(30000), (7,)), (SEEDS[:1], (150001,))):
        one, two, seven = (
            worker.normal(seeds=seeds, shape=shape, threads=threads) for threads in (1, 2, 7)
        )
        assert np.array_equal(one, two)
        assert np.array_equal(one, seven)


def test_normal_does_not_depend_on_the_batch() -> None:
    together = normal(SEEDS, (3, 100))
    for b, seed in enumerate(SEEDS):
        assert np.array_equal(normal([seed], (3, 100))[0], together[b])
    assert np.array_equal(normal(SEEDS[::-1], (300,)), together.reshape(-1, 300)[::-1])


def test_normal_scales() -> None:
    assert np.array_equal(normal([3], (50,), scale=2.5), np.float32(2.5) * normal([3], (50,)))
    assert not normal([3], (50,), scale=0.0).any()


def test_normal_kinds_and_types() -> None:
    import torch

    seeds = torch.tensor([1, 2])
    wanted = normal([1, 2], (5,))
    assert np.array_equal(normal(seeds, (5,)).numpy(), wanted)
    assert normal([1, 2], (5,), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert normal(np.array([1, 2], np.uint64), (5,), dtype=np.float16).dtype == np.float16
    assert np.array_equal(normal(range(1, 3), (5,)), wanted)
    assert normal([], (5,)).shape == (0, 5)
    assert normal([1], ()).shape == (1,)


COUNT = 1 << 20


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    """Draws of 8 seeds, in float64."""
    return normal(np.arange(8), (COUNT // 8,)).astype(np.float64)


def test_normal_moments(draws: np.ndarray) -> None:
    z = draws.ravel()
    # Five standard errors of each moment of n normals.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - moment) < 5 * np.sqrt(variance / z.size), power


def test_normal_distribution(draws: np.ndarray) -> None:
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    # The four places of a block each, and the tails.
    for place in range(4):
        assert stats.kstest(draws.ravel()[place::4], "norm").pvalue > 1e-3
    for limit in (3.0, 4.0):
        expected = 2 * stats.norm.sf(limit) * draws.size
        found = (np.abs(draws) > limit).sum()
        assert abs(found - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("change", ["seed", "seed high", "step", "stream", "shift"])
def test_normal_draws_are_independent(change: str) -> None:
    base = normal([5], (COUNT,))[0].astype(np.float64)
    other = {
        "seed": lambda: normal([6], (COUNT,))[0],
        "seed high": lambda: normal([5 + 2**32], (COUNT,))[0],
        "step": lambda: normal([5], (COUNT,), step=1)[0],
        "stream": lambda: normal([5], (COUNT,), stream=1)[0],
        "shift": lambda: np.roll(base, 1),
    }[change]()
    for a, b in ((base, other), (base**2 - 1, other.astype(np.float64) ** 2 - 1)):
        correlation = (a * b).mean() / (a.std() * b.std())
        assert abs(correlation) < 5 / np.sqrt(COUNT)
