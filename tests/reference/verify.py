# SPDX-License-Identifier: Apache-2.0
"""Verification rules in float64, every decision taken by whoever runs them.

A rule asks `Choices` for each decision, so the same code draws with given random numbers, to be
compared with the kernel, and walks through all outcomes, to sum up exact laws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from reference.logits import uniform

ACCEPT, RESIDUAL, BONUS, SAMPLE = 5, 6, 7, 8
Law = np.ndarray
Draw = tuple[int, int]  # node, token


class Choices(Protocol):
    """Takes decisions."""

    def accepts(self, chance: float, depth: int, draw: int) -> bool:
        """Whether something of this chance happens."""

    def token(self, p: Law, depth: int, stream: int) -> int:
        """A token of a law, which need not be normalised."""

    def residual(self, p: Law, left: Law, depth: int) -> int:
        """A token of what is left of p, at most p everywhere, by rejection from p."""

    def pick(self, weights: Sequence[float], depth: int) -> int:
        """The number of one of the weights."""


def k_seq_rho(p: Law, q: Law, k: int) -> tuple[float, float]:
    """SpecTr's rho, from above, and what an accepted token's law is divided by."""

    def ratio(rho: float) -> float:
        beta = np.minimum(q, p / rho).sum()
        return float((1 - (1 - beta) ** k) / beta) if beta > 0 else 0.0

    low, high = 1.0, float(k)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if ratio(middle) <= middle else (middle, high)
    return high, ratio(high)


def adjusted(p: Law, q: Law, strength: float = 10.0, share: float = 0.1) -> Law:
    """RAPID's target: p moved towards q where q is at least a share of its largest value."""
    with np.errstate(divide="ignore"):
        logits = np.log(p) - strength * np.where(q >= share * q.max(), p - q, 0.0)
    law = np.exp(logits - logits.max())
    return law / law.sum()


def block(
    law: str,
    p_of: Callable[[int], Law],
    q_of: Callable[[int], Law | None],
    draws_of: Callable[[int], Sequence[Draw]],
    by: Choices,
) -> tuple[list[int], int]:
    """Block verification of a chain (Sun et al. 2024, algorithm 2)."""
    nodes, tokens = [0], []
    while draws := [draw for draw in draws_of(nodes[-1]) if draw[1] >= 0]:
        nodes.append(draws[0][0])
        tokens.append(draws[0][1])
    length = len(tokens)

    def draft(i: int) -> Law:
        q = q_of(nodes[i])
        return np.eye(len(p_of(0)))[tokens[i]] if law == "deterministic" or q is None else q

    joint = [1.0]
    for i in range(length):
        joint.append(min(1.0, joint[-1] * p_of(nodes[i])[tokens[i]] / draft(i)[tokens[i]]))

    def excess(i: int) -> Law:
        return np.maximum(joint[i] * p_of(nodes[i]) - draft(i), 0.0)

    accepted = 0
    for i in range(1, length + 1):
        chance = joint[i]
        if i < length:
            mass = excess(i).sum()
            chance = mass / (mass + 1 - joint[i]) if mass > 0 else 0.0
        # Numbers of the first position: those behind it are for the calls that follow.
        if by.accepts(chance, 0, i):
            accepted = i
    if accepted == length:
        return nodes[1:], by.token(p_of(nodes[-1]), length, BONUS)
    return nodes[1 : accepted + 1], by.token(excess(accepted), accepted, RESIDUAL)


def typical(
    p_of: Callable[[int], Law],
    draws_of: Callable[[int], Sequence[Draw]],
    by: Choices,
    epsilon: float = 0.09,
    delta: float = 0.3,
) -> tuple[list[int], int]:
    """Typical acceptance: of all paths of standing drafts the longest, then the most likely."""

    def paths(node: int, path: tuple[int, ...], likely: float) -> Iterator[tuple[Any, ...]]:
        yield -len(path), -likely, path
        p = p_of(node)
        entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
        least = min(epsilon, delta * np.exp(-entropy))
        for child, token in dict(draws_of(node)).items():
            if token >= 0 and p[token] > least:
                yield from paths(child, (*path, child), likely + float(np.log(p[token])))

    best = min(paths(0, (), 0.0))[2]
    return list(best), by.token(p_of(best[-1] if best else 0), len(best), BONUS)


def decide(
    rule: str, law: str, p: Law, q: Law | None, draws: Sequence[Draw], depth: int, by: Choices
) -> tuple[int, int]:
    """The accepted node, or -1, and the next token if there is none."""
    if rule in ("greedy", "match"):
        wanted = int(np.argmax(p)) if rule == "greedy" else by.token(p, depth, SAMPLE)
        return next((node for node, token in draws if token == wanted), -1), wanted
    if not draws:
        return -1, by.token(p, depth, BONUS)
    if rule == "target_only" or law == "deterministic":
        left = p.copy()
        for i, (node, token) in enumerate(draws):
            if by.accepts(left[token] / left.sum() if left.sum() > 0 else 0.0, depth, i):
                return node, -1
            left[token] = 0.0
        return -1, by.residual(p, left, depth)
    assert q is not None
    if rule == "k_seq":
        rho, g = k_seq_rho(p, q, len(draws))
        for i, (node, token) in enumerate(draws):
            if by.accepts(min(1.0, p[token] / (rho * q[token])), depth, i):
                return node, -1
        return -1, by.token(np.maximum(p - g * np.minimum(q, p / rho), 0.0), depth, RESIDUAL)
    if rule == "adjusted_target":
        moved = adjusted(p, q)
        (node, token) = draws[0]
        if by.accepts(min(1.0, moved[token] / q[token]), depth, 0):
            return node, -1
        return -1, by.token(np.maximum(p - np.minimum(q, moved), 0.0), depth, RESIDUAL)
    left, drawn, scale = p.copy(), q.copy(), 1.0
    for i, (node, token) in enumerate(draws, rule == "canonical"):
        if by.accepts(min(1.0, left[token] / drawn[token]), depth, i):
            return node, -1
        left = np.maximum(left - drawn, 0.0)
        unscaled = left / scale
        scale /= left.sum()
        left /= left.sum()
        if law == "without_replacement":
            drawn = drawn.copy()
            drawn[token] = 0.0
            drawn /= drawn.sum() or 1.0
    return -1, by.residual(p, unscaled, depth)


def verify(
    rule: str,
    law: str,
    p_of: Callable[[int], Law],
    q_of: Callable[[int], Law | None],
    draws_of: Callable[[int], Sequence[Draw]],
    by: Choices,
    weights_of: Callable[[int], Sequence[float]] | None = None,
) -> tuple[list[int], int]:
    """Walk from node 0; return the accepted nodes and the next token."""
    if rule == "block":
        return block(law, p_of, q_of, draws_of, by)
    if rule == "typical":
        return typical(p_of, draws_of, by)
    node, path = 0, []
    while True:
        draws = [draw for draw in draws_of(node) if draw[1] >= 0]
        if rule == "canonical" and draws:
            assert weights_of is not None
            draws = [draws[by.pick(weights_of(node), len(path))]]
        child, token = decide(rule, law, p_of(node), q_of(node), draws, len(path), by)
        if child < 0:
            return path, token
        path.append(child)
        node = child


class Uniforms:
    """The random numbers of one request; keeps how close the closest decision was."""

    def __init__(self, seed: int, position: int) -> None:
        self.seed, self.position, self.margin = seed, position, 1.0

    def accepts(self, chance: float, depth: int, draw: int) -> bool:
        u = uniform(self.seed, self.position + depth, ACCEPT, draw)
        self.margin = min(self.margin, abs(u - chance))
        return u < chance

    def token(self, p: Law, depth: int, stream: int, draw: int = 0) -> int:
        u = uniform(self.seed, self.position + depth, stream, draw)
        steps = np.cumsum(p) / p.sum()
        self.margin = min(self.margin, float(np.abs(steps - u).min()))
        return int(np.searchsorted(steps, u, side="right"))

    def residual(self, p: Law, left: Law, depth: int) -> int:
        for j in range(8):
            token = self.token(p, depth, RESIDUAL, 2 * j + 1)
            u = uniform(self.seed, self.position + depth, RESIDUAL, 2 * j + 2)
            self.margin = min(self.margin, abs(u - left[token] / p[token]))
            if u * p[token] < left[token]:
                return token
        return self.token(left, depth, RESIDUAL)

    def pick(self, weights: Sequence[float], depth: int) -> int:
        return self.token(np.asarray(weights, float), depth, ACCEPT)


class Script:
    """Follows given outcomes, then the first possible one; notes the alternatives it passed."""

    def __init__(self, outcomes: Sequence[int]) -> None:
        self.outcomes, self.at = list(outcomes), 0
        self.chance = 1.0
        self.others: list[list[int]] = []

    def _take(self, chances: Sequence[float]) -> int:
        possible = [i for i, c in enumerate(chances) if c > 0]
        if self.at == len(self.outcomes):
            self.others += [[*self.outcomes, i] for i in possible[1:]]
            self.outcomes.append(possible[0])
        outcome = self.outcomes[self.at]
        self.at += 1
        self.chance *= chances[outcome]
        return outcome

    def accepts(self, chance: float, depth: int, draw: int) -> bool:
        return self._take([chance, 1.0 - chance]) == 0

    def token(self, p: Law, depth: int, stream: int) -> int:
        return self._take((p / p.sum()).tolist())

    def residual(self, p: Law, left: Law, depth: int) -> int:
        for _ in range(2):  # as good as 8: what follows them has the same law
            token = self.token(p, depth, RESIDUAL)
            if self._take([left[token] / p[token], 1.0 - left[token] / p[token]]) == 0:
                return token
        return self.token(left, depth, RESIDUAL)

    def pick(self, weights: Sequence[float], depth: int) -> int:
        return self.token(np.asarray(weights, float), depth, ACCEPT)


def outcomes(run: Callable[[Script], Any]) -> Iterator[tuple[float, Any]]:
    """Run something with every sequence of decisions; yield chances and results."""
    waiting: list[list[int]] = [[]]
    while waiting:
        script = Script(waiting.pop())
        result = run(script)
        yield script.chance, result
        waiting += script.others
