# SPDX-License-Identifier: Apache-2.0
"""Plain Python of EAGLE-2 (arXiv 2406.16858): expansion by sorting, reranking by sorting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return each row's log-probabilities in float64."""
    x = np.asarray(logits, np.float64)
    top = x.max(axis=-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def best(values: np.ndarray, count: int) -> list[int]:
    """Indices of the greatest, of equal ones the lower first; none of -inf."""
    order = np.argsort(-np.asarray(values, np.float64), kind="stable")
    return [int(i) for i in order[:count] if values[i] > -np.inf]


def expand(
    cum_logp: np.ndarray,
    logits: np.ndarray,
    k: int,
    beam: int,
    indptr: Sequence[int],
    d2t: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return children of each row and the beam of each request."""
    rows, requests = len(logits), len(indptr) - 1
    ids = np.full((rows, k), -1, np.int32)
    logp = np.full((rows, k), -np.inf)
    for r in range(rows):
        if not cum_logp[r] > -np.inf:
            continue
        own = log_softmax(logits[r])
        for j, token in enumerate(best(logits[r], k)):
            ids[r, j] = token if d2t is None else d2t[token]
            logp[r, j] = float(cum_logp[r]) + own[token]
    result = {
        "ids": ids,
        "logp": logp,
        "beam_ids": np.full((requests, beam), -1, np.int32),
        "beam_logp": np.full((requests, beam), -np.inf),
        "beam_parent": np.full((requests, beam), -1, np.int32),
    }
    for b in range(requests):
        part = slice(indptr[b], indptr[b + 1])
        chosen = best(logp[part].astype(np.float32).ravel(), beam)
        for j, at in enumerate(chosen):
            result["beam_ids"][b, j] = ids[part].ravel()[at]
            result["beam_logp"][b, j] = logp[part].ravel()[at]
            result["beam_parent"][b, j] = at // k
    return result


def rerank(
    cum_logp: Sequence[float], parent: Sequence[int], budget: int
) -> tuple[list[int], list[int]]:
    """Return one request's kept nodes and their parents: take the best that can be reached."""
    score: list[float] = []
    for i, up in enumerate(parent):
        own = float("inf") if i == 0 else float(cum_logp[i])
        own = -np.inf if np.isnan(own) else own
        score.append(own if up < 0 else min(own, score[up]))
    kept = sorted(best(np.array(score), budget))
    return kept, [-1 if parent[i] < 0 else kept.index(parent[i]) for i in kept]
