# SPDX-License-Identifier: Apache-2.0
"""Optimal transport from noise: exact in one dimension, equal cells in any, better digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from threadpoolctl import threadpool_limits

from fewstep import Sampler, noise, schedules, search
from fewstep.demo import frechet
from fewstep.demo.network import NO_CLASS, Denoiser
from fewstep.demo.problem import SIGMA_MAX, SIGMA_MIN


@pytest.mark.parametrize("count", [2, 5, 9])
def test_one_dimension_is_monotone_with_equal_cells(count: int) -> None:
    """Cells end at the normal's quantiles k / n: h_{k+1} - h_k = -q_k (y_{k+1} - y_k)."""
    y = 0.7 * np.arange(count) + 0.3 * np.random.default_rng(count).random(count)
    found = search.transport(y[:, None], iterations=800)
    quantiles = ndtri(np.arange(1, count) / count)
    edges = -np.diff(found.heights) / np.diff(y)
    assert ndtr(edges) == pytest.approx(ndtr(quantiles), abs=0.02)
    z = noise.normal(range(2000), (1,), stream=99)
    expected = np.clip((ndtr(z[:, 0]) * count).astype(int), 0, count - 1)
    assert (found.choose(z) == expected).mean() > 0.93


def test_cells_are_equal_in_many_dimensions() -> None:
    bank = np.random.default_rng(0).standard_normal((40, 20)) * 3
    found = search.transport(bank)
    z = noise.normal(range(10000), (20,), stream=99)
    shares = np.bincount(found.choose(z), minlength=40) / 10000
    plain = np.bincount(search.Transport(bank, np.zeros(40)).choose(z), minlength=40) / 10000
    assert np.abs(shares - 1 / 40).max() < 0.008
    assert np.abs(plain - 1 / 40).max() > 0.02
    assert found(z[:3]).tolist() == bank[found.choose(z[:3])].tolist()


def test_an_entry_by_transport_beats_the_same_calls_from_noise() -> None:
    """Frechet distance of unconditional digits with three model calls."""
    net = Denoiser.shared()

    def model(x: Any, t: Any) -> Any:
        return net(x, t, np.full(len(x), NO_CLASS))

    with threadpool_limits(limits=1, user_api="blas"):
        problem = search.Problem(
            model, (400, 64), schedule=schedules.exponential(SIGMA_MIN, SIGMA_MAX),
            prediction="edm", sigma_data=net.sigma_data, seeds=range(5000, 5400),
        )  # fmt: skip
        long = problem.plan("dpmpp_2m", 6)
        plan, jump = search.dpm_ot(problem, long, 3, iterations=150)
        z = noise.normal(range(400), (64,), stream=noise.STREAM_START)
        entered = Sampler(plan)(model, x0=jump(z).astype(np.float32), start=0, seeds=range(400))
        plain = Sampler(problem.plan("dpmpp_2m", 3))(model, (400, 64), seeds=range(400))
        distances = [frechet.to_real(images) for images in (plain, entered)]
    assert plan.calls == 3
    print(f"\ndpm_ot: 3 calls, Frechet distance {distances[0]:.2f} -> {distances[1]:.2f}")
    assert distances[1] < 0.7 * distances[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: search.transport(np.zeros((0, 2))), "'bank' must have samples, got 0"),
        (lambda: search.transport(np.zeros((3, 2)), iterations=1),
         "'iterations' must be at least 2, got 1"),
    ],
)  # fmt: skip
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value) == f"fewstep.search.transport: {message}"
