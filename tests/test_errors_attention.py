# SPDX-License-Identifier: Apache-2.0
"""Every error of ``tree.attention`` and ``tree.merge``: type and whole message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cases.attention import problem
from fewstep import tree
from test_errors import Call, refuses, text, zeros

BASE = problem([(5, 2), (3, 1)], heads=4, groups=2, dim=16)
PAGED = problem([(5, 2), (3, 1)], heads=4, groups=2, dim=16, page=4)


def call(base: dict[str, Any] = BASE, **changes: Any) -> Call:
    return lambda: tree.attention(**(base | changes))


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


def paged(page: int) -> Any:
    table = PAGED["page_table"].copy()
    table[1, 0] = page
    return table


SCALES = np.ones((2, 9, 2), np.float32)
BYTES = np.zeros((2, 9, 2, 16), np.int8)
FLOAT8 = torch.zeros(2, 9, 2, 16).to(torch.float8_e4m3fn)
SHARED = np.zeros((3, 4, 16), np.float32)

ATTENTION: list[tuple[Call, str]] = [
    (call(q=zeros(3, 4)), "'q' must have shape [N, H, D], got [3, 4]"),
    (
        call(q=zeros(3, 4, 16, dtype=np.float64)),
        "'q' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        call(k=BASE["k"].astype(np.float16)),
        "'k' must have dtype float32 or int8 or float8_e4m3fn, got float16",
    ),
    (call(v=BASE["v"].astype(np.float16)), "'v' must have dtype float32, got float16"),
    (call(k=zeros(2, 9, 2, 32)), "'k' must have shape [P=2, T=9, G=2, D=16], got [2, 9, 2, 32]"),
    (call(v=zeros(2, 9, 1, 16)), "'v' must have shape [P=2, T=9, G=2, D=16], got [2, 9, 1, 16]"),
    (
        call(k=zeros(2, 9, 2, 32)[..., ::2]),
        "'k' must be contiguous in its last dimension, got a stride of 2 elements",
    ),
    (
        call(q=zeros(3, 4, 24), k=zeros(2, 9, 2, 24), v=zeros(2, 9, 2, 24)),
        "'q' must have a head dim that is a multiple of 16 from 16 to 256, got 24",
    ),
    (
        call(q=zeros(3, 4, 272), k=zeros(2, 9, 2, 272), v=zeros(2, 9, 2, 272)),
        "'q' must have a head dim that is a multiple of 16 from 16 to 256, got 272",
    ),
    (
        call(q=zeros(3, 5, 16)),
        "'q' must have 1 to 16 times as many heads as the cache, which has 2, got 5",
    ),
    (
        call(q=zeros(3, 34, 16)),
        "'q' must have 1 to 16 times as many heads as the cache, which has 2, got 34",
    ),
    (
        call(k_scale=SCALES),
        "'k_scale' must be left out unless the cache is int8 or float8_e4m3fn, got a float32 cache",
    ),
    (call(k=BYTES, v=BYTES), "'k_scale' must be given, got NULL"),
    (call(k=FLOAT8, v=FLOAT8, v_scale=SCALES), "'k_scale' must be given, got NULL"),
    (call(k=FLOAT8, v=FLOAT8, k_scale=SCALES), "'v_scale' must be given, got NULL"),
    (call(k=FLOAT8), "'v' must have dtype float8_e4m3fn, got float32"),
    (call(k=FLOAT8, v=BYTES), "'v' must have dtype float8_e4m3fn, got int8"),
    (
        call(q=torch.zeros(3, 4, 16).to(torch.float8_e4m3fn)),
        "'q' must have dtype float32 or float16 or bfloat16, got float8_e4m3fn",
    ),
    (
        call(k=BYTES, v=BYTES, k_scale=SCALES, v_scale=zeros(2, 9, 1)),
        "'v_scale' must have shape [P=2, T=9, G=2], got [2, 9, 1]",
    ),
    (call(kv_len=ints(7, 4).astype(np.int64)), "'kv_len' must have dtype int32, got int64"),
    (
        call(kv_len=ints(1, 4)),
        "'kv_len[0]' must lie in [2, 9], from the request's rows in the cache to the cache's "
        "capacity, got 1",
    ),
    (
        call(kv_len=ints(7, 10)),
        "'kv_len[1]' must lie in [1, 9], from the request's rows in the cache to the cache's "
        "capacity, got 10",
    ),
    (
        call(kv_len=ints(-1, 4), draft="none"),
        "'kv_len[0]' must lie in [0, 9], from the request's rows in the cache to the cache's "
        "capacity, got -1",
    ),
    (call(indptr=ints(0, 3)), "'indptr' must have shape [B+1=3], got [2]"),
    (call(indptr=ints(1, 2, 3)), "'indptr[0]' must be 0, got 1"),
    (call(indptr=ints(0, 4, 3)), "'indptr[2]' must not be below the element before it, got 3"),
    (call(indptr=ints(0, 2, 2)), "'indptr[2]' must be the number of rows, 3, got 2"),
    (
        call(k=zeros(3, 9, 2, 16), v=zeros(3, 9, 2, 16)),
        "'k' must have one page per request, 2, without a page table, got 3",
    ),
    (
        call(PAGED, page_table=paged(7)),
        "'page_table' must hold pages in [0, 7), got 7 for page 0 of request 1",
    ),
    (
        call(PAGED, page_table=paged(-1)),
        "'page_table' must hold pages in [0, 7), got -1 for page 0 of request 1",
    ),
    (call(draft="view"), "'draft_k' must be given, got NULL"),
    (
        call(draft="view", draft_k=zeros(3, 2, 16), draft_v=zeros(3, 2, 16, dtype=np.float16)),
        "'draft_v' must have dtype float32, got float16",
    ),
    (
        call(draft="none", draft_v=zeros(3, 2, 16)),
        "'draft_v' must be left out unless the draft block is separate, got a tensor",
    ),
    (
        call(bits=np.zeros((3, 0), np.uint32)),
        "'bits' must have a bit for each of request 0's 2 rows, got 0 words",
    ),
    (
        call(block=ints(7, 1), bits=np.zeros((3, 0), np.uint32)),
        "'bits' must have a bit for each of request 0's 7 tokens, got 0 words",
    ),
    (call(block=ints(2)), "'block' must have shape [B=2], got [1]"),
    (call(block=ints(2, 1).astype(np.int64)), "'block' must have dtype int32, got int64"),
    (
        call(block=ints(2, 0)),
        "'block[1]' must lie in [1, 4], from the request's rows to its tokens in the cache, got 0",
    ),
    (
        call(block=ints(8, 1)),
        "'block[0]' must lie in [2, 7], from the request's rows to its tokens in the cache, got 8",
    ),
    (
        call(block=ints(2, 1), draft="none"),
        "'block' must be left out unless the draft block is in the cache, got a tensor",
    ),
    (
        call(block=ints(2, 1), draft="view", draft_k=zeros(3, 2, 16), draft_v=zeros(3, 2, 16)),
        "'block' must be left out unless the draft block is in the cache, got a tensor",
    ),
    (call(bits=zeros(3, 1)), "'bits' must have dtype int32 or uint32, got float32"),
    (call(bits=np.zeros((2, 1), np.int32)), "'bits' must have shape [N=3, W], got [2, 1]"),
    (call(depth=ints(0, 1)), "'depth' must have shape [N=3], got [2]"),
    (call(sinks=zeros(3)), "'sinks' must have shape [H=4], got [3]"),
    (call(softcap=-1.0), "'softcap' must be finite and 0 or more, got -1"),
    (call(window=-1), "'window' must be 0 or more, got -1"),
    (call(scale=float("inf")), "'scale' must be finite and 0 or more, got inf"),
    (
        call(out=zeros(3, 4, 16, dtype=np.float16)),
        "'out' must have dtype float32, got float16",
    ),
    (call(lse=zeros(3, 3)), "'lse' must have shape [N=3, H=4], got [3, 3]"),
    (call(q=SHARED, out=SHARED), "'out' must not overlap 'q', got shared memory"),
    (
        call(problem([(1200, 1)], dim=16), workspace=np.zeros(3, np.int64)),
        "'workspace' must have 108 elements or more, got 3",
    ),
    (
        call(workspace=np.zeros(100000, np.int64)[::2]),
        "'workspace' must be contiguous, got a strided layout",
    ),
]


@pytest.mark.parametrize(("call", "message"), ATTENTION, ids=text)
def test_tree_attention(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_tree_attention: {message}")


def test_tree_attention_options() -> None:
    refuses(
        call(draft="both"),
        ValueError,
        "fewstep.tree.attention: 'draft' must be one of cache, view, none, got 'both'",
    )
    refuses(call(scale=0.0), ValueError, "fewstep.tree.attention: 'scale' must be above 0, got 0.0")
    refuses(call(q="x"), TypeError, "fewstep.tree.attention: 'q' must be an array, got str")


def test_tree_attention_leaves_out_alone() -> None:
    out = np.full((3, 4, 16), 5.0, np.float32)
    for changes in ({"kv_len": ints(7, 10)}, {"bits": zeros(3, 1)}, {"lse": zeros(1, 1)}):
        with pytest.raises(ValueError, match="must"):
            call(out=out, **changes)()
    assert (out == 5.0).all()


PART, LSE = zeros(3, 2, 8), zeros(3, 2)
MERGE: list[tuple[Call, str]] = [
    (lambda: tree.merge([PART] * 9, [LSE] * 9), "'parts' must hold 1 to 8 arrays, got 9"),
    (lambda: tree.merge([PART] * 2, [LSE]), "'lses' must hold one array per part, 2, got 1"),
    (
        lambda: tree.merge([PART, zeros(3, 2, 9)], [LSE, LSE]),
        "'parts[1]' must have shape [N=3, H=2, D=8], got [3, 2, 9]",
    ),
    (
        lambda: tree.merge([PART, PART], [LSE, zeros(2, 2)]),
        "'lses[1]' must have shape [N=3, H=2], got [2, 2]",
    ),
    (
        lambda: tree.merge([PART], [zeros(3, 2, dtype=np.float64)]),
        "'lses[0]' must have dtype float32, got float64",
    ),
    (
        lambda: tree.merge([PART], [LSE], out=PART),
        "'out' must not overlap 'parts[0]', got shared memory",
    ),
    (
        lambda: tree.merge([PART], [LSE], lse=LSE),
        "'lse' must not overlap 'lses[0]', got shared memory",
    ),
]


@pytest.mark.parametrize(("call", "message"), MERGE, ids=text)
def test_tree_merge(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_tree_merge: {message}")


def test_tree_merge_empty() -> None:
    refuses(
        lambda: tree.merge([], []),
        ValueError,
        "fewstep.tree.merge: 'parts' must hold 1 to 8 arrays, got 0",
    )
