# SPDX-License-Identifier: Apache-2.0
"""Cases of ``tree.build``, ``tree.from_template``, ``tree.expand``, ``tree.rerank`` and
``tree.sample_children``.

Those of ``tree.attention`` and ``tree.merge`` are in `cases.attention`, those of ``tree.verify`` in
`cases.verify`, those of ``tree.k_seq_rho`` in its test.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LAYOUTS: tuple[dict[str, int], ...] = ({}, {"offset": 1, "gap": 3})


def random_tree(rng: np.random.Generator, nodes: int, width: int = 0) -> list[int]:
    """Parents of a random tree; each among the `width` nodes before, or any."""
    return [-1] + [int(rng.integers(max(0, i - width) if width else 0, i)) for i in range(1, nodes)]


def forests() -> dict[str, list[list[int]]]:
    """Batches of trees: none, single nodes, chains, stars, around the words of the masks."""
    rng = np.random.default_rng(51)
    return {
        "empty batch": [],
        "empty requests": [[], [-1], []],
        "single": [[-1]],
        "chain": [list(range(-1, 40))],
        "star": [[-1] + [0] * 31],
        "words": [random_tree(rng, n) for n in (31, 32, 33, 63, 64, 65, 1)],
        "deep": [random_tree(rng, n, 3) for n in (100, 7)],
        "many": [random_tree(rng, int(rng.integers(0, 20))) if b % 5 else [] for b in range(300)],
        "large": [random_tree(rng, 300)] * 90,
    }


def flat(forest: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return parent and indptr."""
    ends = np.cumsum([0, *map(len, forest)])
    return np.array([p for tree in forest for p in tree], np.int32), ends.astype(np.int32)


def words(forest: list[list[int]]) -> int:
    """Words of a row of ancestor bits."""
    return (max(map(len, forest), default=0) + 31) // 32


def successors(rng: np.random.Generator, vocabulary: int, k: int) -> np.ndarray:
    """A table in which a third of the entries is not known, or out of range."""
    table = rng.integers(0, vocabulary, (vocabulary, k)).astype(np.int32)
    holes = rng.random(table.shape)
    table[holes < 0.2] = -1
    table[holes > 0.95] = vocabulary + 3
    return table


def template_case(seed: int) -> dict[str, Any]:
    """A random template with a table and with heads."""
    rng = np.random.default_rng([52, seed])
    parent = random_tree(rng, int(rng.integers(1, 40)))
    k, vocabulary, batch = int(rng.integers(1, 9)), int(rng.integers(2, 50)), seed % 4
    return {
        "parent": np.array(parent, np.int32),
        "rank": rng.integers(0, k, len(parent)).astype(np.int32),
        "root": rng.integers(0, vocabulary, batch).astype(np.int32),
        "table": successors(rng, vocabulary, k),
        "heads": rng.integers(-1, vocabulary, (batch, len(parent), k)).astype(np.int32),
    }


def growth_case(seed: int, vocabulary: int) -> dict[str, Any]:
    """Frontier rows of a ragged batch; every third has ties, every fifth row is dead."""
    rng = np.random.default_rng([53, seed, vocabulary])
    rows = rng.integers(0, 6, 4)
    indptr = np.cumsum([0, *rows]).astype(np.int32)
    logits = 3 * rng.normal(size=(indptr[-1], vocabulary))
    logits[::3] = np.round(logits[::3])
    logits[1::4, : vocabulary // 2] = -np.inf
    cum_logp = -rng.exponential(size=indptr[-1]).astype(np.float32)
    cum_logp[4::5] = -np.inf
    return {"indptr": indptr, "logits": logits.astype(np.float32), "cum_logp": cum_logp}
