# SPDX-License-Identifier: Apache-2.0
"""Cases of the logits family: vocabularies around vectors and blocks, all sorts of filters.

``logits.sample``, ``logits.renorm`` and ``logits.sample_arithmetic`` have both, ``logits.penalise``
histories of all lengths, ``logits.top_k`` and ``logits.gumbel_top_k`` counts.
``logits.head_top_k`` has sizes of heads, around panels (32) and groups (2048).
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Around the vectors (8, 16), the strands (64), the words of a mask (32) and the blocks (1024).
VOCABULARIES = (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 1023, 1024, 1025, 2047, 2050, 5000)
LONG = (33_000, 70_000, 151_936, 270_001)  # several tiles of a GPU's block, 32,768 tokens
DTYPES = ("float32", "float16", "bfloat16")

# Hidden states, packed rows, inputs.
HEADS = ((1, 2500, 33), (7, 40, 70), (73, 5000, 24), (0, 40, 8), (3, 1, 1), (2, 2048, 512))

FILTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "best": {"temperature": 0.0},
    "warm": {"temperature": 1.7},
    "cold": {"temperature": 0.3},
    "top_k": {"top_k": 7},
    "top_k_1": {"top_k": 1},
    "top_k_many": {"top_k": 1500},
    "top_p": {"top_p": 0.8},
    "top_p_small": {"top_p": 1e-6},
    "min_p": {"min_p": 0.07},
    "min_p_1": {"min_p": 1.0},
    "typical": {"typical": 0.6},
    "eta": {"eta": 0.03},
    "top_k_top_p": {"temperature": 0.9, "top_k": 50, "top_p": 0.9},
    "few_of_all": {"top_k": 40, "top_p": 0.95, "min_p": 0.02, "typical": 0.9, "eta": 0.002},
    "all_but_top_k": {"top_p": 0.95, "min_p": 0.01, "typical": 0.9, "eta": 0.002},
    "many_typical": {"top_k": 1200, "typical": 0.5, "eta": 0.01},
}


def rows(count: int, tokens: int, seed: int = 0, spread: float = 2.5) -> np.ndarray:
    """Random logits, some tokens at -inf."""
    rng = np.random.default_rng([40, count, tokens, seed])
    values = rng.normal(size=(count, tokens)) * spread
    values[rng.random(values.shape) < 0.05] = -np.inf
    values[:, 0] = np.where(np.isneginf(values).all(1), 0.0, values[:, 0])
    return values.astype(np.float32)


def bitmask(count: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Random masks that allow half of the tokens, the first always."""
    rng = np.random.default_rng([41, count, tokens, seed])
    words = rng.integers(0, 2**32, (count, -(-tokens // 32)), np.uint32)
    words[:, 0] |= 1
    return words


COUNTS = (1, 2, 7, 64, 65, 1024)  # of best tokens; a buffer of 256 holds those of up to 64


def lawless(tokens: int) -> np.ndarray:
    """Six rows of which the first has a law; what the others lack is `LAWLESS`."""
    values = rows(6, tokens)
    values[1, tokens - 1] = np.nan
    values[2, tokens // 2] = np.inf
    values[3] = -np.inf
    values[4, 3] = -np.nan
    return values


LAWLESS = [0, 1, 2, 3, 1, 3]  # with a mask that allows nothing in the last row

# Lengths of histories; the table of a row's tokens takes 3072 of them at once.
HISTORIES = (0, 1, 3, 100, 3071, 3072, 3073, 13000)


def histories(tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and where each row's begin: one row of each length, some ids often, some padding."""
    rng = np.random.default_rng([42, tokens, seed])
    ids = rng.integers(0, tokens, sum(HISTORIES))
    often = rng.random(len(ids)) < 0.3
    ids[often] = ids[often] % 7 % tokens
    ids[rng.random(len(ids)) < 0.05] = -1
    return ids.astype(np.int32), np.cumsum([0, *HISTORIES]).astype(np.int32)
