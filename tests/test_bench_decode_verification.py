# SPDX-License-Identifier: Apache-2.0
"""What the verification section of ``fewstep bench decode`` times is right."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from fewstep.bench.decode import verification
from fewstep.bench.rivals import verifiers
from fewstep.bench.rows import Options, WrongResult

RIVALS = {
    "chain": ("torch lazy", "torch full", "torch lazy, inversion", "torch full, inversion"),
    "tree_stochastic": ("torch rows", "torch rows, inversion"),
    "tree_greedy": ("torch", "torch rows", "numpy rows", "read bandwidth"),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small vocabularies, and every function called twice in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
            timed.call()
        return {
            name: SimpleNamespace(median_us=4.0 if name == "ours" else 2.0, p10_us=1.0, p90_us=5.0)
            for name in functions
        }

    monkeypatch.setattr(verification, "VOCABULARIES", (1500,))
    monkeypatch.setattr(verification, "interleaved", called)


@pytest.mark.parametrize("quick", [True, False])
def test_rows(quick: bool) -> None:
    rows = list(verification.rows(Options((1, 2), quick=quick), lambda _: None))
    assert [(row["case"], row["B"], row["threads"], row["rival"]) for row in rows] == [
        (case, batch, threads, rival)
        for threads in (1, 2)
        for case, rivals in RIVALS.items()
        for batch in ((1,) if quick else (1, 8))
        for rival in rivals
    ]
    assert {row["V"] for row in rows} == {2000 if quick else 1500}
    assert all(row["op"] == "tree.verify" and row["dtype"] == "float32" for row in rows)
    assert all(row["K"] == (5 if row["case"] == "chain" else 3) for row in rows)
    assert {row["case"] for row in rows if "share" in row} == {"tree_greedy"}


def test_the_greedy_path_descends() -> None:
    """What the limit reads is what is visited, and each node with children has three."""
    parent = verification.parents()
    assert [parent[node] for node in verification.PATH] == [-1, *verification.PATH[:-1]]
    assert len(parent) == 1 + 3 * len(set(parent) - {-1})


@pytest.mark.parametrize("case", verification.NAMES)
def test_a_wrong_result_is_not_timed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = verification.tree.verify

    def wrong(parent: Any, indptr: Any, token: Any, logits: Any, *rest: Any, **options: Any) -> Any:
        return true(parent, indptr, token, logits.roll(1, 1), *rest, **options)

    monkeypatch.setattr(verification.tree, "verify", wrong)
    with pytest.raises(WrongResult, match=rf"^{case}, .+: differs by .+"):
        list(verification.rows(Options((1,), (case,), quick=True), lambda _: None))


def test_drafts_that_are_refused_too_often_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = verification.tree.verify

    def wrong(parent: Any, indptr: Any, token: Any, *rest: Any, **options: Any) -> Any:
        return true(parent, indptr, torch.full_like(token, -1), *rest, **options)

    monkeypatch.setattr(verification.tree, "verify", wrong)
    with pytest.raises(WrongResult, match=r"^chain, torch lazy: differs by .+, allowed is 5e\+00"):
        list(verification.rows(Options((1,), ("chain",), quick=True), lambda _: None))


def _follows(tokens: torch.Tensor, law: torch.Tensor) -> bool:
    """Whether tokens have a law: chi-square within 5 standard deviations of its mean."""
    wanted = law * len(tokens)
    counts = torch.bincount(tokens, minlength=len(law))
    freedom = len(law) - 1
    square = float(((counts - wanted) ** 2 / wanted).sum())
    return square < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    "name", ["chain_lazy", "chain_full", "chain_lazy_inverted", "chain_full_inverted"]
)
def test_chains_keep_the_targets_law(name: str) -> None:
    """The first token of 20,000 chains whose drafts were drawn anew."""
    torch.manual_seed(6)
    logits, draft_logits = torch.randn(3, 8), torch.randn(2, 8)
    law, count = draft_logits.softmax(-1), 20_000
    tokens = torch.multinomial(law, count, replacement=True).t()
    given = draft_logits if name == "chain_full_inverted" else law
    many = logits.expand(count, -1, -1), given.expand(count, -1, -1).contiguous(), tokens
    accepted, next_token = getattr(verifiers, name)(*many)
    assert set(accepted.tolist()) == {0, 1, 2}
    first = torch.where(accepted > 0, tokens[:, 0], next_token)
    assert _follows(first, logits[0].softmax(-1))


@pytest.mark.parametrize("name", ["rejection_rows", "rejection_rows_inverted", "rejection_batched"])
def test_trees_keep_the_targets_law(name: str) -> None:
    """The first token of 3,000 trees of three children and one grandchild."""
    torch.manual_seed(7)
    random.seed(7)
    logits, q = torch.randn(5, 6), torch.randn(2, 6).softmax(-1)
    count = 3000
    drawn = torch.multinomial(q[0].expand(count, -1), 3)
    below = torch.multinomial(q[1].expand(count, -1), 1)
    tokens = torch.cat([torch.zeros(count, 1, dtype=torch.long), drawn, below], 1)
    q_token = torch.cat([torch.ones(count, 1), q[0][drawn], q[1][below]], 1)
    children = [[1, 2, 3], [4], [], [], []]
    drafts: dict[str, list[Any]] = {
        "rejection_rows": [children, tokens.tolist()],
        "rejection_rows_inverted": [children, tokens.tolist(), q_token.tolist()],
        "rejection_batched": [torch.tensor([c + [-1] * (3 - len(c)) for c in children]), tokens, 3],
    }
    node, next_token = getattr(verifiers, name)(
        logits.expand(count, -1, -1), q.expand(count, -1, -1), *drafts[name]
    )
    assert set(node.tolist()) == {0, 1, 2, 3, 4}
    at = torch.where(node == 4, 1, node)
    first = torch.where(node > 0, tokens.gather(1, at[:, None])[:, 0], next_token)
    assert _follows(first, logits[0].softmax(-1))
