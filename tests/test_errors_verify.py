# SPDX-License-Identifier: Apache-2.0
"""Messages of ``tree.verify``, whole; and that nothing is written before."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import fewstep


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
RRS = {"rule": "rrs", "law": "iid", "draft": DRAFT}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rule": "rrs", "draft": DRAFT},
            "'rule' must be one of greedy, match, target_only, chain for drafts of law "
            "deterministic, got rrs",
        ),
        (
            {"rule": "k_seq", "law": "without_replacement", "draft": DRAFT},
            "'rule' must be one of greedy, match, target_only, chain, rrs for drafts of law "
            "without_replacement, got k_seq",
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
            {"rule": "typical"},
            "'rule' must be one of greedy, match, target_only, chain, rrs, k_seq, got 'typical'",
        ),
        (
            {"law": "top_k"},
            "'law' must be one of deterministic, iid, without_replacement, got 'top_k'",
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
