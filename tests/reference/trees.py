# SPDX-License-Identifier: Apache-2.0
"""Plain Python of what trees are: ancestors by walking up, children by looking at everybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Forest = Sequence[Sequence[int]]  # the parents of each request


def ancestors(parent: Sequence[int], node: int) -> list[int]:
    """Return the node and those above it, the root last."""
    found = [node]
    while parent[found[-1]] >= 0:
        found.append(parent[found[-1]])
    return found


def build(forest: Forest, base: Sequence[int], words: int) -> dict[str, np.ndarray]:
    """Return what `fewstep.tree.build` derives, each array over all requests."""
    columns: dict[str, list[int]] = {
        name: [] for name in ("depth", "first_child", "next_sibling", "positions")
    }
    bits = []
    for parent, start in zip(forest, base, strict=True):
        for i in range(len(parent)):
            line = ancestors(parent, i)
            children = [c for c in range(len(parent)) if parent[c] == i]
            behind = [s for s in range(i + 1, len(parent)) if i and parent[s] == parent[i]]
            columns["depth"].append(len(line) - 1)
            columns["positions"].append(start + len(line) - 1)
            columns["first_child"].append(children[0] if children else -1)
            columns["next_sibling"].append(behind[0] if behind else -1)
            mask = sum(1 << j for j in line)
            bits.append([mask >> 32 * w & 0xFFFFFFFF for w in range(words)])
    result = {name: np.array(values, np.int32) for name, values in columns.items()}
    return result | {"bits": np.array(bits, np.uint32).reshape(len(bits), words)}


def from_template(
    parent: Sequence[int],
    rank: Sequence[int],
    root: Sequence[int],
    table: np.ndarray | None = None,
    heads: np.ndarray | None = None,
) -> np.ndarray:
    """Return each node's token by following the ranks down from the root."""
    tokens = np.full((len(root), len(parent)), -1, np.int32)
    for b, first in enumerate(root):
        for i in range(len(parent)):
            token = int(first)
            for depth, node in enumerate(reversed(ancestors(parent, i)[:-1])):
                if table is not None:
                    token = int(table[token, rank[node]])
                    known = 0 <= token < len(table)
                else:
                    assert heads is not None
                    token = int(heads[b, depth, rank[node]])
                    known = token >= 0
                if not known:
                    token = -1
                    break
            tokens[b, i] = token
    return tokens
