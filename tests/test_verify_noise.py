# SPDX-License-Identifier: Apache-2.0
"""The same seeds draft and verify: their random numbers must not be the same.

A draft drawn with the very number that later draws the residual token biases what is emitted, with
every single rule correct. Here both come from the library, with equal seeds and positions.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import fewstep
from reference.verify import ACCEPT, RESIDUAL, uniform

V, REQUESTS, POSITION = 8, 40000, 3
RNG = np.random.default_rng(5)
P, Q = (RNG.dirichlet(np.ones(V)).astype(np.float32) for _ in range(2))


def p_value(draft: np.ndarray, rule: str) -> float:
    """Of the emitted tokens being the target's, given one drafted token a request."""
    token = np.stack([np.zeros(REQUESTS), draft], 1).astype(np.int32).ravel()
    nodes = len(token)
    found = fewstep.tree.verify(
        np.tile(np.array([-1, 0], np.int32), REQUESTS),
        np.arange(0, nodes + 1, 2, dtype=np.int32),
        token,
        np.lib.stride_tricks.as_strided(np.log(P), (nodes, V), (0, 4)),
        np.arange(REQUESTS),
        POSITION,
        rule=rule,
        law="iid",
        draft=Q[None],
        draft_row=np.zeros(nodes, np.int32),
    )
    emitted = np.where(found.accepted > 0, draft, found.next_token)
    counts = np.bincount(emitted, minlength=V)
    return float(stats.chisquare(counts, P / P.sum(dtype=float) * REQUESTS).pvalue)


@pytest.mark.parametrize("rule", ["chain", "rrs", "k_seq", "block"])
def test_drafts_of_the_same_seed_and_position(rule: str) -> None:
    logits = np.lib.stride_tricks.as_strided(np.log(Q), (REQUESTS, V), (0, 4))
    drawn = fewstep.tree.sample_children(
        np.ascontiguousarray(logits), "iid", 1, np.arange(REQUESTS),
        np.full(REQUESTS, POSITION, np.int32),
        indptr=np.arange(REQUESTS + 1, dtype=np.int32),
    )  # fmt: skip
    assert p_value(np.asarray(drawn.draws)[:, 0], rule) > 1e-4


@pytest.mark.parametrize("stream", [ACCEPT, RESIDUAL])
def test_reused_numbers_would_show(stream: int) -> None:
    """The test above can fail: drafts drawn with verification's own numbers."""
    steps = np.cumsum(Q.astype(float)) / Q.sum(dtype=float)
    numbers = [uniform(seed, POSITION, stream) for seed in range(REQUESTS)]
    draft = np.searchsorted(steps, numbers, side="right").astype(np.int32)
    assert p_value(draft, "chain") < 1e-6
