# SPDX-License-Identifier: Apache-2.0
"""DPM-OT: enter a trajectory in its middle by an optimal transport from noise to noisy data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..noise import STREAM_USER, normal
from ..plans import enter
from ..solver import Plan
from ._problem import Problem, flat
from ._progress import bar

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Transport:
    """A map from Gaussian noise to a bank of samples: Brenier's ``argmax_i <z, y_i> + h_i``.

    Attributes
    ----------
    bank : array, shape (n, N)
        The samples y.
    heights : array, shape (n)
        h, with mean 0; the cells of all samples then have the same probability.
    """

    bank: Array
    heights: Array

    def choose(self, noise: ArrayLike) -> NDArray[np.intp]:
        """Return the number of each noise's sample; noise [B, N] -> [B]."""
        scores = flat(noise) @ self.bank.T + self.heights
        return np.asarray(scores.argmax(1))

    def __call__(self, noise: ArrayLike) -> Array:
        """Return each noise's sample; [B, N] -> [B, N]."""
        return self.bank[self.choose(noise)]


def transport(
    bank: ArrayLike,
    *,
    iterations: int = 400,
    batch: int = 4096,
    seed: int = 0,
    progress: bool = False,
) -> Transport:
    """Find the optimal transport from Gaussian noise to a bank of samples with equal weights.

    The heights minimise the convex ``E max_i(<z, y_i> + h_i) - mean(h)``, whose gradient is how
    much oftener than 1 in n a sample is chosen: stochastic descent with falling steps, and the mean
    of the second half.

    Parameters
    ----------
    bank : array, shape (n, N...)
        Samples, such as noisy data.
    iterations : int, default 400
    batch : int, default 4096
        Noises in each.
    seed : int, default 0
        Of the noise.
    progress : bool, default False
        Show a tqdm bar of iterations.

    Returns
    -------
    Transport

    Raises
    ------
    ValueError
        The bank is empty or `iterations` is below 2.

    References
    ----------
    .. [1] Li et al., "DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport",
       arXiv 2307.11308; Gu et al., arXiv 1302.5472

    Examples
    --------
    >>> found = fewstep.search.transport([[-1.0], [1.0]], iterations=50)
    >>> found([[-0.5], [0.5]]).tolist()
    [[-1.0], [1.0]]
    """
    if len(bank) < 1:  # type: ignore[arg-type]
        raise ValueError("fewstep.search.transport: 'bank' must have samples, got 0")
    samples = flat(bank)
    count, width = samples.shape
    if iterations < 2:
        raise ValueError(
            f"fewstep.search.transport: 'iterations' must be at least 2, got {iterations}"
        )
    heights, mean = np.zeros(count), np.zeros(count)
    # Heights differ by about the spread of <z, y>, and a gradient is about 1 / n.
    size = 2.0 * float(np.sqrt(samples.var(0).sum())) + 1e-12
    with bar(iterations, "transport", progress) as tick:
        for k in range(iterations):
            seeds = np.arange(batch) + (seed * iterations + k) * batch
            noise = normal(seeds, (width,), stream=STREAM_USER)
            chosen = (noise @ samples.T + heights).argmax(1)
            excess = np.bincount(chosen, minlength=count) / batch - 1 / count
            heights = heights - size * excess / np.sqrt(1 + 20 * k / iterations)
            if k >= iterations // 2:
                mean += heights / (iterations - iterations // 2)
            tick()
    return Transport(samples, mean - mean.mean())


def dpm_ot(
    problem: Problem,
    plan: Plan,
    row: int,
    *,
    data: ArrayLike | None = None,
    iterations: int = 400,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Plan, Transport]:
    """Leave out a plan's first rows: noise jumps to noisy data by optimal transport.

    Parameters
    ----------
    problem : Problem
    plan : Plan
    row : int
        First row that still runs; begins a step.
    data : array, shape (n, N...), optional
        Clean samples, put to the row's noise level; by default the problem's reference.
    iterations, seed, progress
        Of `transport`.

    Returns
    -------
    plan : Plan
        To be called with ``x0=jump(noise), start=0``.
    jump : Transport
        Takes noise of unit variance.

    References
    ----------
    .. [1] Li et al., arXiv 2307.11308

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (16, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> plan, jump = fewstep.search.dpm_ot(problem, problem.plan("euler", 6), 3, iterations=20)
    >>> plan.calls, jump(np.zeros((2, 3))).shape
    (3, (2, 3))
    """
    short = enter(plan, row)
    first = plan.rows[row]
    clean = problem.reference if data is None else flat(data)
    seeds = np.arange(len(clean)) + seed * len(clean)
    fresh = normal(seeds, (clean.shape[1],), step=1, stream=STREAM_USER)
    bank = first.alpha * clean + first.sigma * fresh
    return short, transport(bank, iterations=iterations, seed=seed, progress=progress)
