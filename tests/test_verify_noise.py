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


def p_value(draft: np.ndarray, rule: str, law: np.ndarray = Q) -> float:
    """Of the emitted tokens being the target's, given one token a request drafted from a law."""
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
        draft=law[None],
        draft_row=np.zeros(nodes, np.int32),
    )
    emitted = np.where(found.accepted > 0, draft, found.next_token)
    counts = np.bincount(emitted, minlength=V)
    return float(stats.chisquare(counts, P / P.sum(dtype=float) * REQUESTS).pvalue)


def drafted(**filters: float) -> np.ndarray:
    """Draw a token a request from the drafter's filtered law."""
    logits = np.lib.stride_tricks.as_strided(np.log(Q), (REQUESTS, V), (0, 4))
    drawn = fewstep.tree.sample_children(
        np.ascontiguousarray(logits), "iid", 1, np.arange(REQUESTS),
        np.full(REQUESTS, POSITION, np.int32),
        indptr=np.arange(REQUESTS + 1, dtype=np.int32), **filters,
    )  # fmt: skip
    return np.asarray(drawn.draws)[:, 0]


@pytest.mark.parametrize("rule", ["chain", "rrs", "k_seq", "block"])
def test_drafts_of_the_same_seed_and_position(rule: str) -> None:
    assert p_value(drafted(), rule) > 1e-4


@pytest.mark.parametrize("rule", ["chain", "rrs", "k_seq", "block"])
def test_filtered_drafts_are_verified_with_what_renorm_gives(rule: str) -> None:
    """And not with the drafter's law before its filters."""
    filters = {"temperature": 0.7, "top_k": 5, "min_p": 0.1}
    law = fewstep.logits.renorm(np.log(Q)[None], **filters)[0]
    assert 1 < np.count_nonzero(law) < V
    assert p_value(drafted(**filters), rule, law) > 1e-4
    assert p_value(drafted(**filters), rule) < 1e-6


@pytest.mark.parametrize(("stream", "draw"), [(ACCEPT, 0), (RESIDUAL, 1)])
def test_reused_numbers_would_show(stream: int, draw: int) -> None:
    """The test above can fail: drafts drawn with verification's own numbers."""
    steps = np.cumsum(Q.astype(float)) / Q.sum(dtype=float)
    numbers = [uniform(seed, POSITION, stream, draw) for seed in range(REQUESTS)]
    draft = np.searchsorted(steps, numbers, side="right").astype(np.int32)
    assert p_value(draft, "chain") < 1e-6
