# SPDX-License-Identifier: Apache-2.0
"""A tree that grows by a recycler and by a model, plainly: every node is looked at every time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reference.recycler import Recycler


class Cascade:
    """`fewstep.draft.Cascade`; a node is its text, so a child is what has one token more."""

    def __init__(self, recycler: Recycler, room: int) -> None:
        self.recycler, self.room = recycler, room

    def begin(self, context: Sequence[int], depth: int, least: float) -> None:
        self.context, self.depth, self.least = tuple(context), depth, least
        self.nodes: list[tuple[int, ...]] = [()] if context else []  # below the root
        self.score: dict[tuple[int, ...], np.float32] = {(): np.float32(1)}
        self.ran: set[tuple[int, ...]] = set()
        self.asked: set[tuple[int, ...]] = set()
        if context:
            self._follow(())

    def _add(self, node: tuple[int, ...], score: np.float32) -> None:
        self.nodes.append(node)
        self.score[node] = score

    def _follow(self, node: tuple[int, ...]) -> float:
        room, depth = self.room - len(self.nodes), self.depth - len(node)
        if room < 1 or depth < 1:
            return 0.0
        least = min(np.float32(1), np.float32(self.least) / self.score[node])
        end = (self.context + node)[-self.recycler.order :]
        token, parent, score = self.recycler.propose(end, depth, float(least), room + 1)
        made = [node]
        for i in range(1, len(token)):
            made.append((*made[parent[i]], token[i]))
            self._add(made[i], self.score[node] * np.float32(score[i]))
        return float(sum(self.score[one] for one in made[1:]))

    def children(self, node: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [one for one in self.nodes if one[:-1] == node and one]

    def rest(self, node: tuple[int, ...]) -> float:
        return float(self.score[node] - sum(float(self.score[c]) for c in self.children(node)))

    def ask(self, most: int, least: float) -> tuple[list[int], list[int], float]:
        """Return nodes to run, nodes that are asked, and the chance of these."""
        open_ = [
            (i, node)
            for i, node in enumerate(self.nodes)
            if node not in self.asked and len(node) < self.depth and self.rest(node) > least
        ]
        best = sorted(open_, key=lambda one: (-round(self.rest(one[1]), 5), one[0]))[:most]
        self.asked |= {node for _, node in best}
        needed = {node[:n] for _, node in best for n in range(len(node) + 1)} - self.ran
        needed |= {node for _, node in best}
        self.ran |= needed
        run = [i for i, node in enumerate(self.nodes) if node in needed]
        return run, sorted(i for i, _ in best), sum(self.rest(node) for _, node in best)

    def answer(self, place: int, ids: Sequence[int], logp: Sequence[float]) -> float:
        node, gained = self.nodes[place], 0.0
        mine = {one[-1] for one in self.children(node)}
        known = sum(math.exp(p) for t, p in zip(ids, logp, strict=True) if t in mine)
        rest = max(self.rest(node), 0.0)
        for t, p in zip(ids, logp, strict=True):
            if t < 0 or t in mine or len(self.nodes) >= self.room:
                continue
            share = math.exp(p) / (1 - known) if math.exp(p) < 1 - known else 1.0
            score = np.float32(rest * share)
            if score >= np.float32(self.least) and score > 0:
                mine.add(t)
                self._add((*node, t), score)
                gained += float(score) + self._follow((*node, t))
        return gained

    def take(self, max_nodes: int) -> dict[tuple[int, ...], float]:
        """Return the likeliest nodes and their scores."""
        ranked = sorted(enumerate(self.nodes), key=lambda one: (-self.score[one[1]], one[0]))
        return {node: float(self.score[node]) for _, node in ranked[:max_nodes]}
