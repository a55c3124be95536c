# SPDX-License-Identifier: Apache-2.0
"""Messages of ``tree.verify``, whole; and that nothing is written before."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fewstep
from cases import verify as cases


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def arguments(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "parent": ints(-1, 0, 0, 1),
        "indptr": ints(0, 4),
        "token": ints(0, 1, 2, 3),
        "logits": np.zeros((4, 5), np.float32),
        "seeds": [3],
        "positions": [0],
        "path": np.full((1, 2), 7, np.int32),
        "accepted": np.full(1, 7, np.int32),
        "next_token": np.full(1, 7, np.int32),
    }
    return given | changes


DRAFT = np.full((4, 5), 0.2, np.float32)
GREEDY = {"rule": "greedy", "target_token": ints(1, 2, 3, 4), "logits": None}
RRS = {"rule": "rrs", "law": "iid", "draft": DRAFT}


CANONICAL = {
    "rule": "canonical",
    "law": "external_weights",
    "draft": DRAFT,
    "draw_indptr": ints(0, 2, 3, 3, 3),
    "draw_node": ints(1, 2, 3),
    "draw_weight": np.ones(3, np.float32),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rule": "rrs", "draft": DRAFT},
            "'rule' must be one of greedy, match, target_only, chain, block, typical for drafts of "
            "law deterministic, got rrs",
        ),
        (
            {"rule": "k_seq", "law": "without_replacement", "draft": DRAFT},
            "'rule' must be one of greedy, match, target_only, chain, rrs, block, typical, "
            "adjusted_target for drafts of law without_replacement, got k_seq",
        ),
        (
            {"rule": "chain", "law": "external_weights", "draft": DRAFT},
            "'rule' must be one of greedy, match, target_only, canonical, typical for drafts of "
            "law external_weights, got chain",
        ),
        (
            {"rule": "block"},
            "'parent' must give a node one child at most for rule block, got nodes 1 and 2 of "
            "request 0",
        ),
        ({"rule": "typical", "epsilon": -0.1}, "'epsilon' must be finite and 0 or more, got -0.1"),
        ({"rule": "typical", "delta": np.inf}, "'delta' must be finite and 0 or more, got inf"),
        (
            {"rule": "adjusted_target", "law": "iid", "draft": DRAFT, "strength": 81.0},
            "'strength' must lie in 0 to 80, got 81",
        ),
        (
            {"rule": "adjusted_target", "law": "iid", "draft": DRAFT, "strength": np.nan},
            "'strength' must lie in 0 to 80, got nan",
        ),
        (
            CANONICAL | {"draw_indptr": None, "draw_node": None},
            "'draw_indptr' must be given for rule canonical, got NULL",
        ),
        (CANONICAL | {"draw_weight": None}, "'draw_weight' must be given, got NULL"),
        (
            CANONICAL | {"draw_weight": np.array([1, -1, 1], np.float32)},
            "'draw_weight' must be finite and 0 or more, got -1 at 1",
        ),
        (
            CANONICAL | {"draw_weight": np.array([0, 0, 1], np.float32)},
            "'draw_weight' must be above 0 for one of a node's draws, got 0 for all of node 0",
        ),
        (
            CANONICAL
            | {
                "draw_indptr": ints(0, 300, 300, 300, 300),
                "draw_node": np.ones(300, np.int32),
                "draw_weight": np.ones(300, np.float32),
            },
            "'draw_indptr' must give a node 256 draws at most for rule canonical, got 300 at 0",
        ),
        ({"rule": "rrs", "law": "iid"}, "'draft' must be given, got NULL"),
        (
            {**RRS, "draft": DRAFT[:, :3]},
            "'draft' must have V=5 columns without draft_ids, got 3",
        ),
        (
            {**RRS, "draft": DRAFT[:2]},
            "'draft' must have a row for each of N=4 nodes without draft_row, got 2",
        ),
        (
            {**RRS, "draft_ids": ints([0, 1, 2, 4, 3])},
            "'draft_ids' must ascend within [0, 5), got 3 at [0, 4]",
        ),
        (
            {**RRS, "draft_row": ints(0, 1, 2, 4)},
            "'draft_row' must lie in [0, M=4), got 4 at 3",
        ),
        ({"token": ints(0, 1, 5, 3)}, "'token' must be below V=5, got 5 at 2"),
        (
            {"path": np.full((1, 1), 7, np.int32)},
            "'path' must have a column for each level of the trees, 2 or more, got 1",
        ),
        (
            {"rule": "chain"},
            "'parent' must give a node one child at most for rule chain, got nodes 1 and 2 of "
            "request 0",
        ),
        (
            {"draw_indptr": ints(0, 2, 3, 3, 3)},
            "'draw_node' must be given together with draw_indptr, got one of them",
        ),
        (
            {"draw_indptr": ints(0, 2, 3, 3, 3), "draw_node": ints(1, 3, 3)},
            "'draw_node' must be a child of node 0 of request 0, got 3 at 1",
        ),
        (
            {"logprobs": np.zeros((1, 2), np.float32)},
            "'logprobs' must have D + 1 = 3 columns, got 2",
        ),
        ({"temperature": -1.0}, "'temperature' must be 0 or more and finite, got -1"),
        (
            {"bitmask": np.zeros((4, 2), np.int32)},
            "'bitmask' must have 1 words in a row, one bit for each token, got 2",
        ),
        (
            {"target_token": ints(1, 2, 3, 4), "rule": "chain"},
            "'target_token' must be left out but for rules greedy and match, got one",
        ),
        (
            {"target_token": ints(1, 2, 3, 4), "rule": "greedy"},
            "'logits' must be left out with target_token, got one",
        ),
        (
            GREEDY | {"bitmask": np.zeros((4, 1), np.int32)},
            "'bitmask' must be left out with target_token, got one",
        ),
        (
            GREEDY | {"logprobs": np.zeros((1, 3), np.float32)},
            "'logprobs' must be left out with target_token, got one",
        ),
        (
            GREEDY | {"target_token": ints(1, 2)},
            "'target_token' must have shape [N=4], got [2]",
        ),
        ({"logits": None}, "'logits' must be given, got NULL"),
        ({"logits": np.zeros((3, 5), np.float32)}, "'logits' must have shape [N=4, V], got [3, 5]"),
    ],
)
def test_tree_verify(changes: dict[str, Any], message: str) -> None:
    given = arguments(**changes)
    with pytest.raises(ValueError, match=f"^{re.escape(f'fewstep_tree_verify: {message}')}$"):
        fewstep.tree.verify(**given)
    for name in ("path", "accepted", "next_token"):
        assert (given[name] == 7).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rule": "best"},
            "'rule' must be one of greedy, match, target_only, chain, rrs, k_seq, block, "
            "canonical, typical, adjusted_target, got 'best'",
        ),
        (
            {"law": "top_k"},
            "'law' must be one of deterministic, iid, without_replacement, external_weights, got "
            "'top_k'",
        ),
    ],
)
def test_tree_verify_names(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'fewstep.tree.verify: {message}')}$"):
        fewstep.tree.verify(**arguments(**changes))


@pytest.mark.parametrize(
    ("parent", "indptr"),
    [
        (ints(-1, 2, 1, 0), ints(0, 4)),
        (ints(-1, -1, 0, 0), ints(0, 4)),
        (ints(0, 0, 0, 1), ints(0, 4)),
    ],
)
def test_tree_verify_refuses_what_is_no_tree(parent: np.ndarray, indptr: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^fewstep_tree_verify: 'parent' must "):
        fewstep.tree.verify(**arguments(parent=parent, indptr=indptr))


def test_tree_verify_refuses_trees_too_large_for_typical() -> None:
    nodes = 1025
    given = arguments(
        parent=np.arange(-1, nodes - 1, dtype=np.int32), indptr=ints(0, nodes),
        token=np.zeros(nodes, np.int32), logits=np.zeros((nodes, 5), np.float32),
        path=np.zeros((1, nodes), np.int32), rule="typical",
    )  # fmt: skip
    message = "'indptr' must give a tree 1024 nodes at most for rule typical, got 1025 in request 0"
    with pytest.raises(ValueError, match=f"^{re.escape(f'fewstep_tree_verify: {message}')}$"):
        fewstep.tree.verify(**given)


@pytest.mark.parametrize(("rule", "law"), cases.ILLEGAL)
def test_tree_verify_refuses_every_other_pair(rule: str, law: str) -> None:
    with pytest.raises(ValueError, match=r"^fewstep_tree_verify: 'rule' must be one of greedy, "):
        fewstep.tree.verify(**arguments(**CANONICAL | {"rule": rule, "law": law}))


LOGITS, LAWS = np.zeros((3, 5), np.float32), np.full((3, 5), 0.2, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "'k' must lie in [1, 256], got 0"),
        ({"k": 257}, "'k' must lie in [1, 256], got 257"),
        ({"logits": np.zeros((3, 0), np.float32)}, "'logits' must have a token, got V=0"),
        ({"top_p": 2.0}, "'top_p' must lie in (0, 1], got 2"),
        ({"bitmask": ints([1, 1])}, "'bitmask' must have shape [R=3, W], got [1, 2]"),
        ({"draft": LAWS[:2]}, "'draft' must have shape [1 or R=3, S], got [2, 5]"),
        (
            {"draft": LAWS[:, :4].copy()},
            "'draft' must have V=5 columns without draft_ids, got 4",
        ),
        (
            {"draft_ids": ints([0, 1, 2, 4, 3])},
            "'draft_ids' must ascend within [0, 5), got 3 at [0, 4]",
        ),
        ({"rho": np.zeros(3, np.float32)}, "'rho' must have dtype float64, got float32"),
        ({"accept": np.zeros(2)}, "'accept' must have shape [R=3], got [2]"),
        ({"status": ints(1)}, "'status' must have shape [R=3], got [1]"),
    ],
)
def test_tree_k_seq_rho(changes: dict[str, Any], message: str) -> None:
    given = {"logits": LOGITS, "draft": LAWS, "k": 2} | changes
    with pytest.raises(ValueError, match=f"^{re.escape(f'fewstep_tree_k_seq_rho: {message}')}$"):
        fewstep.tree.k_seq_rho(**given)
