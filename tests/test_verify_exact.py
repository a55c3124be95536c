# SPDX-License-Identifier: Apache-2.0
"""Every legal pair of rule and draft law emits the target's law, by enumeration of all outcomes.

The kernel takes the reference's decisions (test_verify.py); here the reference's are summed up:
over all drafts that the law can draw, repeats among independent draws included, on trees of two
levels, with targets and drafts that depend on what came before.
"""

from __future__ import annotations

import itertools
from functools import cache, partial

import numpy as np
import pytest

from cases import verify as cases
from reference import verify as reference

V, DEPTH = 3, 2


@cache
def law_after(kind: str, prefix: tuple[int, ...], seed: int) -> np.ndarray:
    """A random law that depends on the tokens before."""
    rng = np.random.default_rng([60, seed, kind == "q", len(prefix), *prefix])
    return rng.dirichlet(np.ones(V))


def drafts(law: str, q: np.ndarray, k: int) -> list[tuple[float, tuple[int, ...]]]:
    """Every sequence of draws at a node with its chance."""
    if law == "deterministic":
        return [(1.0, tuple(np.argsort(-q)[:k].tolist()))]
    found = []
    for tokens in itertools.product(range(V), repeat=k):
        chance, rest = 1.0, 1.0
        for i, t in enumerate(tokens):
            if law == "without_replacement":
                if t in tokens[:i]:
                    chance = 0.0
                    break
                chance *= q[t] / rest
                rest -= q[t]
            else:
                chance *= q[t]
        if chance > 0:
            found.append((chance, tokens))
    return found


def importance(prefix: tuple[int, ...], seed: int) -> np.ndarray:
    """Weights with which a draw is picked: more for what the target likes better than the draft."""
    return law_after("p", prefix, seed) / law_after("q", prefix, seed)


def picked_law(prefix: tuple[int, ...], seed: int, k: int) -> np.ndarray:
    """The law of the draw that is picked among k independent ones."""
    law, weights = np.zeros(V), importance(prefix, seed)
    for chance, tokens in drafts("iid", law_after("q", prefix, seed), k):
        for t in tokens:
            law[t] += chance * weights[t] / sum(weights[u] for u in tokens)
    return law


def emitted_law(rule: str, law: str, k: int, seed: int, merge: bool = True) -> dict:
    """The law of the first DEPTH + 1 tokens that are emitted, the target's own after the next."""
    total: dict[tuple[int, ...], float] = {}

    def run(by: reference.Script) -> tuple[int, ...]:
        # Nodes are prefixes; a node's draws are drawn when the walk comes there, which is the same
        # as before: they depend on nothing else.
        prefixes: list[tuple[int, ...]] = [()]
        weights: dict[int, list[float]] = {}

        def draws_of(node: int) -> list[reference.Draw]:
            prefix = prefixes[node]
            if len(prefix) == DEPTH:
                return []
            choices = drafts(law, law_after("q", prefix, seed), k)
            chosen = by.token(np.array([c for c, _ in choices]), 0, 0)
            nodes: dict[int, int] = {}
            listed = []
            for t in choices[chosen][1]:
                if t not in nodes:
                    nodes[t] = len(prefixes)
                    prefixes.append((*prefix, t))
                    listed.append((nodes[t], t))
                elif merge:
                    listed.append((nodes[t], t))
            weights[node] = [importance(prefix, seed)[t] for _, t in listed]
            return listed

        path, token = reference.verify(
            rule,
            law,
            lambda n: law_after("p", prefixes[n], seed),
            lambda n: (
                picked_law(prefixes[n], seed, k)
                if law == "external_weights"
                else law_after("q", prefixes[n], seed)
            ),
            draws_of,
            by,
            lambda n: weights[n],
        )
        return (*(prefixes[path[-1]] if path else ()), token)

    for chance, tokens in reference.outcomes(run):
        for rest in itertools.product(range(V), repeat=DEPTH + 1 - len(tokens)):
            weight, all_tokens = chance, tokens
            for t in rest:
                weight *= law_after("p", all_tokens, seed)[t]
                all_tokens = (*all_tokens, t)
            total[all_tokens] = total.get(all_tokens, 0.0) + weight
    return total


def distance(found: dict, seed: int) -> float:
    """Total variation to the target's own law."""
    sum_of = 0.0
    for tokens in itertools.product(range(V), repeat=DEPTH + 1):
        chance = 1.0
        for i, t in enumerate(tokens):
            chance *= law_after("p", tokens[:i], seed)[t]
        sum_of += abs(found.get(tokens, 0.0) - chance)
    return sum_of / 2


PAIRS = [
    (rule, law, k)
    for rule, law in cases.LEGAL
    if rule not in ("greedy", *cases.LOSSY)
    for k in ((1,) if rule in cases.ONE_CHILD else (1, 2, 3) if law == "iid" else (1, 2))
]


@pytest.mark.parametrize(("rule", "law", "k"), PAIRS)
def test_legal_pairs_keep_the_target(rule: str, law: str, k: int) -> None:
    seeds = (0,) if k == 3 else (0, 1, 2)
    for seed in seeds:
        assert distance(emitted_law(rule, law, k, seed), seed) < 1e-12


@pytest.mark.parametrize(
    ("rule", "law"),
    [("rrs", "deterministic"), ("k_seq", "deterministic"), ("k_seq", "without_replacement")],
)
def test_refused_pairs_would_not(rule: str, law: str) -> None:
    """What is refused is refused for a reason: run as the nearest legal law, it is biased."""
    worst = 0.0
    for seed in range(3):
        q_law = {"deterministic": "iid", "without_replacement": "iid"}[law]
        # The rule believes in independent draws; the drafts come from the other law.
        worst = max(worst, distance(_mismatched(rule, q_law, law, seed), seed))
    assert worst > 0.01


def _mismatched(rule: str, believed: str, real: str, seed: int) -> dict:
    original = drafts
    try:
        globals()["drafts"] = lambda _, q, k: original(real, q, k)
        return emitted_law(rule, believed, 2, seed)
    finally:
        globals()["drafts"] = original


@pytest.mark.parametrize("rule", ["rrs", "k_seq"])
def test_repeats_must_be_listed(rule: str) -> None:
    """Independent draws that fall on one node count as often as they were drawn."""
    assert max(distance(emitted_law(rule, "iid", 2, s, merge=False), s) for s in range(3)) > 1e-3


def test_block_accepts_no_fewer_than_chain() -> None:
    """Expected accepted drafts, which is what block verification is for."""
    gained = 0.0
    for seed in range(4):
        means = {
            rule: sum(chance * length for chance, length in accepted_lengths(rule, seed))
            for rule in ("chain", "block")
        }
        assert means["block"] >= means["chain"] - 1e-12
        gained += means["block"] - means["chain"]
    assert gained > 1e-3


def accepted_lengths(rule: str, seed: int) -> list[tuple[float, int]]:
    """Chances and numbers of accepted drafts of chains of DEPTH drafts."""

    def run(by: reference.Script) -> int:
        prefixes: list[tuple[int, ...]] = [()]

        def draws_of(node: int) -> list[reference.Draw]:
            if len(prefixes[node]) == DEPTH:
                return []
            token = by.token(law_after("q", prefixes[node], seed), 0, 0)
            prefixes.append((*prefixes[node], token))
            return [(len(prefixes) - 1, token)]

        p_of, q_of = (
            lambda n, kind=kind: law_after(kind, prefixes[n], seed) for kind in ("p", "q")
        )
        return len(reference.verify(rule, "iid", p_of, q_of, draws_of, by)[0])

    return list(reference.outcomes(run))


def test_adjusted_target_has_the_law_that_is_documented() -> None:
    """``min(q, a)``, and what that leaves of 1 from ``max(p - q, p - a, 0)`` (RAPID)."""
    for seed in range(4):
        p, q = law_after("p", (), seed), law_after("q", (), seed)
        moved = reference.adjusted(p, q)
        least = np.minimum(q, moved)
        left = np.maximum(np.maximum(p - q, p - moved), 0.0)
        wanted = least + (1 - least.sum()) * left / left.sum()
        found = np.zeros(V)
        for tokens, chance in emitted_law("adjusted_target", "iid", 1, seed).items():
            found[tokens[0]] += chance
        assert found == pytest.approx(wanted, abs=1e-12)
        assert np.abs(found - p).sum() > 1e-3


def standing(prefix: tuple[int, ...], seed: int, epsilon: float, delta: float) -> np.ndarray:
    """What the draft's law puts on tokens that typical acceptance lets stand."""
    p, q = law_after("p", prefix, seed), law_after("q", prefix, seed)
    sure = np.exp((p * np.log(p)).sum())  # exp(-entropy)
    return np.where(p > min(epsilon, delta * sure), q, 0.0)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.09, 0.3), (0.9, 0.7)])
def test_typical_has_the_law_that_is_documented(
    epsilon: float, delta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of chains: drafts that stand as they were drawn, then the target's law (Medusa)."""
    changed = partial(reference.typical, epsilon=epsilon, delta=delta)
    monkeypatch.setattr(reference, "typical", changed)
    for seed in range(4):
        found = emitted_law("typical", "iid", 1, seed)
        for tokens in itertools.product(range(V), repeat=DEPTH + 1):
            own = [law_after("p", tokens[:i], seed)[t] for i, t in enumerate(tokens)]
            wanted, stood = 0.0, 1.0  # the latter: these drafts were drawn, and stand
            for depth in range(DEPTH):
                left = standing(tokens[:depth], seed, epsilon, delta)
                wanted += stood * (1 - left.sum()) * np.prod(own[depth:])
                stood *= left[tokens[depth]]
            wanted += stood * own[DEPTH]
            assert found.get(tokens, 0.0) == pytest.approx(wanted, abs=1e-12)
        assert distance(found, seed) > 1e-3
    stand = [standing((), seed, epsilon, delta) > 0 for seed in range(4)]
    assert np.any(stand)
    assert not np.all(stand)


@pytest.mark.parametrize("k", [2, 3])
def test_typical_takes_the_likeliest_of_paths_of_one_length(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees of one level: a token follows where it was drawn, stands, and no likelier one does."""
    monkeypatch.setitem(globals(), "DEPTH", 1)
    for seed in range(4):
        p, left = law_after("p", (), seed), standing((), seed, 0.09, 0.3)
        likelier = np.array([left[p > p[v]].sum() for v in range(V)])
        wanted = (1 - likelier) ** k - (1 - likelier - left) ** k + (1 - left.sum()) ** k * p
        found = np.zeros(V)
        for tokens, chance in emitted_law("typical", "iid", k, seed).items():
            found[tokens[0]] += chance
        assert found == pytest.approx(wanted, abs=1e-12)
