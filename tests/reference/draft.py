# SPDX-License-Identifier: Apache-2.0
"""The drafters, plainly."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

Tree = tuple[list[int], list[int]]


def recycle(table: np.ndarray, tokens: np.ndarray, top_ids: np.ndarray) -> np.ndarray:
    """The table after the update, row by row."""
    table = table.copy()
    for token, ids in zip(tokens, top_ids, strict=True):
        table[token] = ids
    return table


def ngram(
    text: Sequence[int],
    context: Sequence[int] | None,
    n_min: int,
    n_max: int,
    max_tokens: int,
    branches: int,
    max_nodes: int,
) -> Tree:
    """Every earlier n-gram compared with the end of the context, the longest and latest first."""
    own = context is None
    end = list(text if context is None else context)
    if not end:
        return [], []
    token, parent = [end[-1]], [-1]
    found = []
    for n in range(n_max, n_min - 1, -1):
        if len(end) < n:
            continue
        for at in range(len(text) - 2, n - 2, -1):  # the last token has no continuation
            match = list(text[at - n + 1 : at + 1]) == end[-n:]
            if match and at not in [a for a, _ in found]:
                found.append((at, n))
    count = 0
    for at, _ in found:
        if count == branches or len(token) == max_nodes:
            break
        tail = list(text[at + 1 :])
        if own:
            tail = [tail[i % len(tail)] for i in range(max_tokens)]
        node, grew = 0, False
        for wanted in tail[:max_tokens]:
            same = [i for i in range(len(token)) if parent[i] == node and token[i] == wanted]
            if same:
                node = same[0]
                continue
            if len(token) == max_nodes:
                break
            token.append(wanted)
            parent.append(node)
            node, grew = len(token) - 1, True
        count += grew
    return token, parent


class Trigram:
    """Tri-gram counts and the search over them, with dictionaries keyed by paths."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)

    def observe(self, tokens: Sequence[int]) -> None:
        """Count three tokens in a row."""
        for a, b, c in zip(tokens, tokens[1:], tokens[2:], strict=False):
            self.counts[a, b][c] += 1

    def successors(self, a: int, b: int, width: int) -> list[tuple[int, float]]:
        """The most frequent successors with their shares."""
        counts = self.counts.get((a, b), Counter())
        best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:width]
        return [(token, count / sum(counts.values())) for token, count in best]

    def propose(
        self,
        context: Sequence[int],
        depth: int,
        width: int,
        iterations: int,
        exploration: float,
        max_nodes: int,
    ) -> Tree:
        """Search, then the most visited paths."""
        if len(context) < 2:
            return list(context), [-1] * len(context)
        visits: Counter[tuple[int, ...]] = Counter()
        value: dict[tuple[int, ...], float] = defaultdict(float)
        chance: dict[tuple[int, ...], float] = {(): 1.0}
        children: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        born: list[tuple[int, ...]] = []
        for _ in range(iterations):
            path: tuple[int, ...] = ()
            while len(path) < depth:
                if path not in children:
                    a, b = [*context[-2:], *path][-2:]
                    children[path] = []
                    for token, share in self.successors(a, b, width):
                        chance[(*path, token)] = share
                        children[path].append((*path, token))
                        born.append((*path, token))
                if not children[path]:
                    break
                root = math.sqrt(visits[path] + 1)
                scores = []
                for child in children[path]:
                    q = value[child] / visits[child] if visits[child] else 0.0
                    scores.append(q + exploration * chance[child] * root / (1 + visits[child]))
                path = children[path][int(np.argmax(scores))]
                if visits[path] == 0:
                    break
            if not path:
                break
            below = 0.0
            for length in range(len(path), -1, -1):
                node = path[:length]
                below = chance[node] * (1.0 + below)
                value[node] += below
                visits[node] += 1
        order = sorted((n for n in born if visits[n]), key=lambda n: -visits[n])
        order = [(), *order][:max_nodes]
        token = [context[-1], *(node[-1] for node in order[1:])]
        return token, [-1, *(order.index(node[:-1]) for node in order[1:])]
