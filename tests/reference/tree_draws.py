# SPDX-License-Identifier: Apache-2.0
"""Float64 reference of ``tree.sample_children``, and the laws it must have, by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from reference.noise import philox
from reference.tree_growth import best, log_softmax

DRAFT = 4  # the stream of drafts


def words(seed: int, position: int, node: int, blocks: int) -> np.ndarray:
    """Return the four words of each block of a draw, as [blocks, 4]."""
    block = np.arange(blocks, dtype=np.uint64)
    one = np.ones_like(block)
    counter = [block, one * np.uint64(node), one * np.uint64(position), one * np.uint64(DRAFT)]
    return np.stack(philox(counter, (seed % 2**32, seed >> 32)), axis=1)


def sample_children(
    logits: np.ndarray,
    law: str,
    k: int,
    seed: int,
    position: int,
    node: int = 0,
    temperature: float = 1.0,
    cum_logp: float = 0.0,
    parent_perturbed: float = 0.0,
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return one row's draws, their log-probabilities and their perturbed ones."""
    logq = log_softmax(np.asarray(logits, np.float64) / temperature)
    if law == "iid":
        pairs = words(seed % 2**64, position, node, k).astype(np.uint64)
        cells = (pairs[:, 1] << np.uint64(32) | pairs[:, 0]) >> np.uint64(12)
        uniform = (cells.astype(np.float64) + 0.5) * 2.0**-52
        draws = [int(i) for i in np.searchsorted(np.cumsum(np.exp(logq)), uniform, side="right")]
        return draws, logq[draws], np.full(k, np.nan)
    word = words(seed % 2**64, position, node, -(-len(logq) // 4)).reshape(-1)[: len(logq)]
    gumbel = -np.log(-np.log((word.astype(np.float64) + 0.5) * 2.0**-32))
    perturbed = logq + gumbel
    draws = best(perturbed, k)
    if law == "stochastic_beam":
        perturbed = perturbed + cum_logp
        greatest = perturbed[draws[0]]
        with np.errstate(over="ignore"):
            perturbed = -np.log(np.exp(-parent_perturbed) - np.exp(-greatest) + np.exp(-perturbed))
    return draws, logq[draws], perturbed[draws]


def without_replacement(q: Sequence[float], k: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield every ordered sequence of k and its probability, drawn one after the other."""
    for order in itertools.permutations(range(len(q)), k):
        left, p = 1.0, 1.0
        for token in order:
            p *= q[token] / left
            left -= q[token]
        yield order, p


def chi_square_is_small(counts: Sequence[int], law: Sequence[float]) -> bool:
    """Whether counts agree with a law: the statistic within 5 deviations of what it should be."""
    observed, expected = np.array(counts), np.array(law) * sum(counts)
    assert abs(sum(law) - 1) < 1e-6
    assert not observed[expected == 0].any()
    expected, observed = expected[expected > 0], observed[expected > 0]
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    return statistic < freedom + 5 * math.sqrt(2 * freedom) + 5
