# SPDX-License-Identifier: Apache-2.0
"""Every error of the tree family's structure ops: type and whole message; nothing is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import _core, tree
from test_errors import Call, refuses, text, zeros


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


P = ints(-1, 0, 0, -1, 0, 1)
ENDS = ints(0, 3, 6)

BUILD: list[tuple[Call, str]] = [
    (
        lambda: tree.build(ints(-1, 0, 3, -1), ints(0, 1, 4)),
        "'parent' must be -1 at the root, node 0 of request 1, got 0",
    ),
    (
        lambda: tree.build(ints(-1, 0, -1), ints(0, 3)),
        "'parent' must have one root per request, so an earlier node at node 2 of request 0, "
        "got -1",
    ),
    (
        lambda: tree.build(ints(-1, -1, 1), ints(0, 1, 3)),
        "'parent' must be an earlier node, in [0, 1), at node 1 of request 1, got 1",
    ),
    (
        lambda: tree.build(ints(-1, 0, 5)),
        "'parent' must be an earlier node, in [0, 2), at node 2 of request 0, got 5",
    ),
    (
        lambda: tree.build(ints(-1, 0, -7)),
        "'parent' must be an earlier node, in [0, 2), at node 2 of request 0, got -7",
    ),
    (
        lambda: tree.build(ints(-1, -1, 0, 1, 2), ints(0, 1, 5), max_depth=2),
        "'parent' must give depths of at most max_depth=2 at node 3 of request 1, got 3",
    ),
    (lambda: tree.build(P, ints(1, 6)), "'indptr' must begin with 0, got 1"),
    (
        lambda: tree.build(P, ints(0, 4, 3, 6)),
        "'indptr' must ascend, so be 4 or more at 2, got 3",
    ),
    (lambda: tree.build(P, ints(0, 5)), "'indptr' must end with N=6, got 5"),
    (
        lambda: tree.build(P, ints(), bits=zeros(6, 1, dtype=np.int32)),
        "'indptr' must have shape [B+1], got [0]",
    ),
    (lambda: tree.build(P, ENDS, base=ints(1)), "'base' must have shape [B=2], got [1]"),
    (
        lambda: tree.build(P.astype(np.int64), ENDS),
        "'parent' must have dtype int32, got int64",
    ),
    (
        lambda: tree.build(P, ENDS, depth=zeros(6)),
        "'depth' must have dtype int32, got float32",
    ),
    (
        lambda: tree.build(P, ENDS, positions=zeros(5, dtype=np.int32)),
        "'positions' must have shape [N=6], got [5]",
    ),
    (
        lambda: tree.build(P, ENDS, bits=zeros(6, 1)),
        "'bits' must have dtype int32 or uint32, got float32",
    ),
    (
        lambda: tree.build(ints(-1, *[0] * 64), bits=zeros(65, 2, dtype=np.int32)),
        "'bits' must have 3 words per node or more, a bit for each node of a request, got 2",
    ),
    (
        lambda: tree.build(P, ENDS, depth=P),
        "'depth' must not overlap 'parent', got shared memory",
    ),
    (
        lambda: _core.tree_build(P, ENDS, None, -1, P.copy(), P.copy(), None, None, None),
        "'first_child' must be given together with next_sibling, got one of them",
    ),
]


@pytest.mark.parametrize(("call", "message"), BUILD, ids=text)
def test_tree_build(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_tree_build: {message}")


def test_tree_build_in_python() -> None:
    refuses(
        lambda: tree.build(P, max_depth=-1),
        ValueError,
        "fewstep.tree.build: 'max_depth' must be 0 or more, got -1",
    )
    refuses(
        lambda: tree.build([-1, 0]),
        TypeError,
        "fewstep.tree.build: 'parent' must be an array, got list",
    )


@pytest.mark.parametrize(
    ("parent", "indptr", "limit"),
    [(ints(-1, 0, 2), ints(0, 3), -1), (P, ints(0, 5), -1), (ints(-1, 0, 1), ints(0, 3), 1)],
)
def test_tree_build_writes_nothing_when_it_refuses(parent: Any, indptr: Any, limit: int) -> None:
    outputs = [np.full(len(parent), 9, np.int32) for _ in range(4)]
    bits = np.full((len(parent), 1), 9, np.int32)
    with pytest.raises(ValueError, match="must"):
        _core.tree_build(parent, indptr, None, limit, *outputs, bits)
    assert all((a == 9).all() for a in (*outputs, bits))


T = np.zeros((5, 2), np.int32)
ROOT = ints(1, 4)
RANK = ints(9, 0, 1)
SMALL = ints(-1, 0, 1)
TEMPLATE: list[tuple[Call, str]] = [
    (
        lambda: tree.from_template(SMALL, RANK, ROOT),
        "'table' must be given or else 'heads', got neither",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ROOT, table=T, heads=zeros(2, 2, 2)),
        "'table' must be given or else 'heads', got both",
    ),
    (
        lambda: tree.from_template(SMALL, ints(0, 1), ROOT, table=T),
        "'rank' must have shape [Q=3], got [2]",
    ),
    (
        lambda: tree.from_template(SMALL, ints(0, 1, 2), ROOT, table=T),
        "'rank' must lie in [0, K=2) at node 2, got 2",
    ),
    (
        lambda: tree.from_template(SMALL, ints(0, -1, 0), ROOT, table=T),
        "'rank' must lie in [0, K=2) at node 1, got -1",
    ),
    (
        lambda: tree.from_template(ints(-1, 0, 2), RANK, ROOT, table=T),
        "'parent' must be an earlier node, in [0, 2), at node 2 of request 0, got 2",
    ),
    (
        lambda: tree.from_template(ints(), ints(), ROOT, table=T),
        "'parent' must have a root, got no nodes",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ints(4, 5), table=T),
        "'root' must lie in [0, V=5) for request 1, got 5",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ints(0, -1), table=T),
        "'root' must lie in [0, V=5) for request 1, got -1",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ints(-2), heads=zeros(1, 2, 2, dtype=np.int32)),
        "'root' must be 0 or more for request 0, got -2",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ROOT, heads=zeros(2, 1, 2, dtype=np.int32)),
        "'parent' must give depths of at most H=1 at node 2, got 2",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ROOT, heads=zeros(3, 2, 2, dtype=np.int32)),
        "'heads' must have shape [B=2, H, K], got [3, 2, 2]",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ROOT, table=T.astype(np.int64)),
        "'table' must have dtype int32, got int64",
    ),
    (
        lambda: tree.from_template(SMALL, RANK, ROOT, table=T, tokens=zeros(2, 4, dtype=np.int32)),
        "'tokens' must have shape [B=2, Q=3], got [2, 4]",
    ),
]


@pytest.mark.parametrize(("call", "message"), TEMPLATE, ids=text)
def test_tree_from_template(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_tree_from_template: {message}")
