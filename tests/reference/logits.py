# SPDX-License-Identifier: Apache-2.0
"""Laws of filtered logits in float64, straight from the definitions, and draws by inversion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reference import linear
from reference.noise import philox

STREAM_SAMPLE, STREAM_SUBSET = 8, 9


def uniform(seed: int, position: int, stream: int = STREAM_SAMPLE, draw: int = 0) -> float:
    """The 52-bit uniform number of a draw."""
    seed, counter = int(seed) % 2**64, (0, draw, position, stream)
    key = (seed % 2**32, seed >> 32)
    words = [int(w[0]) for w in philox([np.array([c], np.uint64) for c in counter], key)]
    return (((words[1] << 32 | words[0]) >> 12) + 0.5) * 2.0**-52


def _rank(keys: np.ndarray) -> np.ndarray:
    """Token ids from the largest key down, ties by id."""
    return np.lexsort((np.arange(len(keys)), -keys))


def _reach(p: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
    """The fewest tokens of an order whose probabilities reach a share, at least one."""
    order = order[p[order] > 0]
    before = np.cumsum(p[order]) - p[order]
    kept = np.zeros(len(p), bool)
    kept[order[(before < share) | (np.arange(len(order)) == 0)]] = True
    return kept


def law(logits: np.ndarray, filters: Mapping[str, Any], allowed: np.ndarray | None = None) -> Any:
    """Probabilities of one row after its filters; None where it has no law."""
    x = np.asarray(logits, np.float64).copy()
    if allowed is not None:
        x[~allowed] = -np.inf
    if np.isnan(x).any() or (x == np.inf).any() or (x == -np.inf).all():
        return None
    options = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical": 1.0,
        "eta": 0.0,
    }
    options |= dict(filters)
    if options["temperature"] == 0:
        return np.eye(len(x))[_rank(x)[0]]
    x = (x - x.max()) / options["temperature"]

    def normalised() -> np.ndarray:
        w = np.exp(x)
        return w / w.sum()

    if options["top_k"]:
        x[_rank(x)[options["top_k"] :]] = -np.inf
    if options["top_p"] < 1:
        x[~_reach(normalised(), _rank(x), options["top_p"])] = -np.inf
    if options["min_p"] > 0:
        p = normalised()
        x[p < options["min_p"] * p.max()] = -np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        if options["typical"] < 1:
            p = normalised()
            surprise = -np.log(p)
            entropy = np.nansum(p * surprise)
            distance = np.where(p > 0, np.abs(surprise - entropy), np.inf)
            x[~_reach(p, _rank(-distance), options["typical"])] = -np.inf
        if options["eta"] > 0:
            p = normalised()
            entropy = -np.nansum(p * np.log(p))
            cut = min(options["eta"], np.sqrt(options["eta"]) * np.exp(-entropy))
            x[(p < cut) & (p < p.max())] = -np.inf
    return normalised()


def sample(p: np.ndarray, u: float) -> int:
    """The first token whose cumulative probability exceeds u."""
    return int(np.searchsorted(np.cumsum(p), u * p.sum(), side="right"))


def is_close_call(p: np.ndarray, u: float, slack: float) -> bool:
    """Whether rounding may decide between two tokens."""
    return bool(np.abs(np.cumsum(p) - u * p.sum()).min() < slack)


def allowed_of(bitmask: np.ndarray, count: int) -> np.ndarray:
    """Bits of words as booleans."""
    words = np.asarray(bitmask).view(np.uint32)
    return np.array([words[v // 32] >> np.uint32(v % 32) & 1 for v in range(count)], bool)


def penalise(
    logits: np.ndarray,
    counts: Mapping[int, int],
    bias: Mapping[int, float],
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> np.ndarray:
    """One row with a bias by id, and penalised by the counts of its history's ids."""
    x = np.asarray(logits, np.float64).copy()
    for v, value in bias.items():
        x[v] += value
    for v, count in counts.items():
        x[v] = x[v] / repetition if x[v] > 0 else x[v] * repetition
        x[v] -= frequency * count + presence * (count > 0)
    return x


def top_k(
    logits: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """The ids and logits of one row's k best, padded, and the row's log-normaliser."""
    x = np.asarray(logits, np.float64).copy()
    if allowed is not None:
        x[~allowed] = -np.inf
    ids = _rank(x)[:k]
    ids = ids[x[ids] > -np.inf]
    values = np.full(k, -np.inf)
    values[: len(ids)] = x[ids]
    padded = np.full(k, -1)
    padded[: len(ids)] = ids
    return padded, values, float(x.max() + np.log(np.exp(x - x.max()).sum()))


def gumbel_top_k(
    p: np.ndarray, k: int, seed: int, position: int, draw: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The ids and perturbed log-probabilities of k draws without replacement, padded."""
    block = np.arange(-(-len(p) // 4), dtype=np.uint64)
    one = np.ones_like(block)
    counter = [block, *(one * np.uint64(i) for i in (draw, position, STREAM_SUBSET))]
    seed = int(seed) % 2**64
    words = np.stack(philox(counter, (seed % 2**32, seed >> 32)), axis=1).reshape(-1)[: len(p)]
    with np.errstate(divide="ignore"):
        perturbed = np.log(p) - np.log(-np.log((words.astype(np.float64) + 0.5) * 2.0**-32))
    ids, values, _ = top_k(perturbed, k)
    return ids, values


def renorm(
    logits: np.ndarray, filters: Mapping[str, Any], allowed: np.ndarray | None = None
) -> Any:
    """The law itself."""
    return law(logits, filters, allowed)


def sample_arithmetic(p: np.ndarray, code: int) -> tuple[int, float, float]:
    """The token that a code stands for, where in its interval that lies, and the slack there."""
    u = code / 2.0**64
    token = sample(p, u)
    before = float(p[:token].sum())
    return token, (u - before) / p[token], 1.0 / p[token]


def head_top_k(
    x: np.ndarray, weight: np.ndarray, k: int, tokens: np.ndarray | None = None, **options: Any
) -> tuple[np.ndarray, np.ndarray, float]:
    """The ids and logits of one hidden state's k best tokens, and the log-normaliser."""
    logits = linear.run(np.asarray(x)[None], weight, **options)[0]
    if tokens is None:
        return top_k(logits, k)
    wide = np.full(int(np.max(tokens)) + 1, -np.inf)
    wide[tokens] = logits
    return top_k(wide, k)
