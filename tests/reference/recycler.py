# SPDX-License-Identifier: Apache-2.0
"""Contexts and what followed them, plainly: a dictionary of texts' ends."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

Text = tuple[int, ...]
Bucket = tuple[int, str, int, int]


class Recycler:
    """`fewstep.draft.Recycler`; the dictionary is in the order in which contexts became known."""

    def __init__(self, order: int, width: int, capacity: int) -> None:
        self.order, self.width, self.capacity = order, width, capacity
        self.known: dict[Text, tuple[str, list[int], list[np.float32]]] = {}
        self.counts: dict[Bucket, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def _store(self, text: Text, source: str, tokens: list[int], shares: list[np.float32]) -> None:
        """Put the successors behind each end of a text."""
        for n in range(1, min(self.order, len(text)) + 1):
            end = text[-n:]
            if end in self.known and source == "read" and self.known[end][0] == "model":
                continue
            if end not in self.known and len(self.known) == self.capacity:
                del self.known[next(iter(self.known))]
            self.known[end] = (source, tokens, shares)

    def longest(self, text: Text) -> Text | None:
        """The longest end of a text that is known."""
        ends = (text[-n:] for n in range(min(self.order, len(text)), 0, -1))
        return next((end for end in ends if end in self.known), None)

    def bucket(self, end: Text, rank: int) -> Bucket:
        """What a successor is counted with."""
        source, _, shares = self.known[end]
        return len(end), source, min(rank, 3), min(9, int(np.float32(10) * shares[rank]))

    def read(self, tokens: Sequence[int]) -> None:
        """Every token follows all that is before it."""
        for q in range(1, len(tokens)):
            self._store(tuple(tokens[:q]), "read", [tokens[q]], [np.float32(1)])

    def observe(
        self,
        trees: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]],
        ids: np.ndarray,
        logits: np.ndarray,
        paths: Sequence[Sequence[int]],
        next_token: Sequence[int],
    ) -> None:
        """Trees are their texts before the root, tokens and parents; rows are theirs in order."""
        row = 0
        for (before, token, parent), path, last in zip(trees, paths, next_token, strict=True):
            followed = dict(zip([0, *path], [*(token[i] for i in path), last], strict=True))
            texts: list[Text] = []
            for i, (t, p) in enumerate(zip(token, parent, strict=True)):
                texts.append((*(texts[p] if p >= 0 else before), t))
                end = self.longest(texts[i])
                if followed.get(i, -1) >= 0 and end is not None:
                    for rank, guess in enumerate(self.known[end][1]):
                        count = self.counts[self.bucket(end, rank)]
                        count[0] += 1
                        count[1] += guess == followed[i]
                        if count[0] == 512:
                            count[:] = [count[0] / 2, count[1] / 2]
                kept = [k for k in range(self.width) if ids[row, k] >= 0]
                if kept:
                    values = [float(logits[row, k]) for k in kept]
                    weights = [math.exp(value - max(values)) for value in values]
                    total = 0.0
                    for weight in weights:
                        total += weight
                    shares = [np.float32(weight / total) for weight in weights]
                    self._store(texts[i], "model", [int(ids[row, k]) for k in kept], shares)
                row += 1

    def propose(
        self, context: Sequence[int], depth: int, least: float, max_nodes: int
    ) -> tuple[list[int], list[int], list[float]]:
        """All nodes that may come next looked through for each that does."""
        if not len(context):
            return [], [], []
        made = [(np.float32(1), tuple(context), -1, 0)]  # chance, text, parent, depth
        waiting, tree = [0], []
        while waiting and len(tree) < max_nodes:
            best = max(waiting, key=lambda i: (made[i][0], -i))
            waiting.remove(best)
            chance, text, _, level = made[best]
            tree.append(made[best])
            end = self.longest(text)
            if level == depth or end is None:
                continue
            _, tokens, shares = self.known[end]
            for rank, (token, share) in enumerate(zip(tokens, shares, strict=True)):
                trials, hits = self.counts[self.bucket(end, rank)]
                own = chance * np.float32((hits + 2 * 0.7 * float(share)) / (trials + 2))
                if own >= np.float32(least):
                    waiting.append(len(made))
                    made.append((own, (*text, token), len(tree) - 1, level + 1))
        return (
            [text[-1] for _, text, _, _ in tree],
            [parent for _, _, parent, _ in tree],
            [float(chance) for chance, _, _, _ in tree],
        )
