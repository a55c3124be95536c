# SPDX-License-Identifier: Apache-2.0
"""Cases of ``tree.verify``: pairs of law and rule, and random trees drawn by each law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LAWS = ("deterministic", "iid", "without_replacement", "external_weights")
LOSSY = ("typical", "adjusted_target")
ONE_CHILD = ("chain", "block", "adjusted_target")
NEEDS = {  # laws of the rules that do not take every one
    "chain": LAWS[:3],
    "block": LAWS[:3],
    "rrs": LAWS[1:3],
    "k_seq": ("iid",),
    "canonical": ("external_weights",),
    "adjusted_target": LAWS[1:3],
}
RULES = (
    "greedy", "match", "target_only", "chain", "rrs", "k_seq", "block", "canonical", *LOSSY
)  # fmt: skip
PAIRS = tuple((rule, law) for rule in RULES for law in LAWS)
LEGAL = tuple((rule, law) for rule, law in PAIRS if law in NEEDS.get(rule, LAWS))
ILLEGAL = tuple(pair for pair in PAIRS if pair not in LEGAL)


@dataclass
class Trees:
    """A ragged batch of draft trees with everything that verification reads."""

    parent: np.ndarray  # [N]
    indptr: np.ndarray  # [B + 1]
    token: np.ndarray  # [N]
    logits: np.ndarray  # [N, V]
    draft: np.ndarray  # [N, V]
    draw_indptr: np.ndarray  # [N + 1]
    draw_node: np.ndarray  # [K]
    draw_weight: np.ndarray  # [K]


def trees(requests: int, tokens: int, law: str, draws: int, depth: int, seed: int = 0) -> Trees:
    """Random laws at every node, children drawn as the law says, equal draws in one node."""
    rng = np.random.default_rng([50, requests, tokens, draws, depth, seed])
    parent: list[int] = []
    token: list[int] = []
    indptr = [0]
    q: list[np.ndarray] = []
    lists: list[list[int]] = []
    for _ in range(requests):
        own_parent, own_token, level = [-1], [int(rng.integers(tokens))], [0]
        at = 0
        while at < len(own_parent):
            law_here = rng.dirichlet(np.full(tokens, 0.5)).astype(np.float32)
            q.append(law_here)
            chosen: list[int] = []
            count = int(rng.integers(0, draws + 1)) if level[at] < depth else 0
            if law in ("iid", "external_weights"):
                chosen = rng.choice(tokens, count, p=law_here / law_here.sum(dtype=float)).tolist()
            elif law == "without_replacement":
                keys = np.log(law_here + 1e-30) + rng.gumbel(size=tokens)
                chosen = np.argsort(-keys)[: min(count, tokens)].tolist()
            else:
                chosen = np.argsort(-law_here)[: min(count, tokens)].tolist()
            nodes: dict[int, int] = {}
            for t in chosen:
                if t not in nodes:
                    nodes[t] = len(own_parent)
                    own_parent.append(at)
                    own_token.append(t)
                    level.append(level[at] + 1)
            lists.append([nodes[t] for t in chosen])
            at += 1
        parent += own_parent
        token += own_token
        indptr.append(len(parent))
    logits = np.log(rng.dirichlet(np.full(tokens, 0.5), len(parent)) + 1e-12)
    begins = np.cumsum([0, *map(len, lists)])
    return Trees(
        np.array(parent, np.int32),
        np.array(indptr, np.int32),
        np.array(token, np.int32),
        logits.astype(np.float32),
        np.array(q, np.float32).reshape(-1, tokens),
        begins.astype(np.int32),
        np.array([n for nodes in lists for n in nodes], np.int32),
        rng.dirichlet(np.ones(max(int(begins[-1]), 1)))[: int(begins[-1])].astype(np.float32),
    )
