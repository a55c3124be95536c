# SPDX-License-Identifier: Apache-2.0
"""Every error of the KV cache's ops: type and whole message, and nothing written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fewstep import kv
from test_errors import refuses, text, zeros


def ints(*values: Any) -> Any:
    return np.array(values, np.int32)


class Given:
    """Arguments of a call that would succeed, of which a test changes some."""

    def __init__(self, op: Any, **arguments: Any) -> None:
        self.op, self.arguments = op, arguments

    def __call__(self, **changes: Any) -> Any:
        """Call; a refused call must leave every array as it was."""
        given = {**self.arguments, **changes}
        arrays = [a for v in given.values() for a in (v if isinstance(v, list) else [v])]
        arrays = [a for a in arrays if isinstance(a, np.ndarray)]
        before = [a.tobytes() for a in arrays]
        try:
            return self.op(**given)
        except Exception:
            assert [a.tobytes() for a in arrays] == before
            raise


def shared() -> dict[str, Any]:
    memory = zeros(6, 2, 4, 2, 3)
    return {"k_cache": memory[:, 0], "v_cache": memory[:, 0]}


def inside() -> dict[str, Any]:
    memory = zeros(6, 4, 2, 3)
    return {"k_cache": memory, "k": memory[0, :3]}


def broadcast() -> Any:
    return np.lib.stride_tricks.as_strided(zeros(24), (6, 4, 2, 3), (4, 4, 12, 4))


APPEND = {
    "k": zeros(3, 2, 3), "v": zeros(3, 2, 3), "k_cache": zeros(6, 4, 2, 3),
    "v_cache": zeros(6, 4, 2, 3), "indptr": ints(0, 1, 3), "length": ints(0, 3),
    "page_table": ints([5, -1], [2, 3]),
}  # fmt: skip
BYTES = {
    "k_cache": zeros(6, 4, 2, 3, dtype=np.int8), "v_cache": zeros(6, 4, 2, 3, dtype=np.int8),
    "k_scale": zeros(6, 4, 2), "v_scale": zeros(6, 4, 2),
}  # fmt: skip
FLOAT8 = {
    name: torch.zeros(6, 4, 2, 3, dtype=torch.float8_e4m3fn) for name in ("k_cache", "v_cache")
}
ROPE = {"rope": "neox", "cos": zeros(5, 1), "sin": zeros(5, 1)}
append = Given(kv.append, **APPEND)
APPEND_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"k": zeros(3, 2)}, "'k' must have shape [N, G, D], got [3, 2]"),
    (
        {"k": zeros(3, 2, 3, dtype=np.float64)},
        "'k' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        {"k": zeros(3, 2, 6)[..., ::2]},
        "'k' must be contiguous in its last dimension, got a stride of 2 elements",
    ),
    ({"k": zeros(3, 2, 1025)}, "'v' must have shape [N=3, G=2, D=1025], got [3, 2, 3]"),
    (
        {"k": zeros(3, 2, 1025), "v": zeros(3, 2, 1025)},
        "'k' must have heads of at most 1024 elements, got 1025",
    ),
    ({"v": zeros(3, 2, 3, dtype=np.float16)}, "'v' must have dtype float32, got float16"),
    ({"v": zeros(4, 2, 3)}, "'v' must have shape [N=3, G=2, D=3], got [4, 2, 3]"),
    (
        {"k_cache": zeros(6, 4, 1, 3)},
        "'k_cache' must have shape [P=6, T=4, G=2, D=3], got [6, 4, 1, 3]",
    ),
    (
        {"v_cache": zeros(5, 4, 2, 3)},
        "'v_cache' must have shape [P=6, T=4, G=2, D=3], got [5, 4, 2, 3]",
    ),
    ({"v_cache": BYTES["v_cache"]}, "'v_cache' must have dtype float32, got int8"),
    ({"indptr": ints(0, 1, 2, 3)}, "'indptr' must have shape [B+1=3], got [4]"),
    (
        {"indptr": np.array([0, 1, 3])},
        "'indptr' must have dtype int32, got int64",
    ),
    ({"indptr": ints(1, 1, 3)}, "'indptr[0]' must be 0, got 1"),
    ({"indptr": ints(0, 4, 3)}, "'indptr[2]' must be 4, the entry before it, or more, got 3"),
    ({"indptr": ints(0, 1, 2)}, "'indptr[2]' must be N=3, got 2"),
    ({"length": ints(0, -1)}, "'length[1]' must be 0 or more, got -1"),
    (
        {"length": ints(0, 7)},
        "'k' must leave request 1 within its cache of 8 slots, got 9",
    ),
    (
        {"length": ints(0, 2**31 - 1)},
        "'k' must leave request 1 within its cache of 8 slots, got 2147483649",
    ),
    (
        {"page_table": ints([5, -1], [2, 6])},
        "'page_table' must have a page in [0, 6) for slot 4 of request 1, got 6",
    ),
    (
        {"page_table": ints([-1, -1], [2, 3])},
        "'page_table' must have a page in [0, 6) for slot 0 of request 0, got -1",
    ),
    ({"page_table": ints([5, -1])}, "'page_table' must have shape [B=2, C], got [1, 2]"),
    (
        {"page_table": None},
        "'page_table' must be given for caches of other than B=2 pages, got none with P=6",
    ),
    (
        {"k_scale": zeros(6, 4, 2)},
        "'k_scale' must be left out but for int8 and float8_e4m3fn caches, got one",
    ),
    (
        {"v_scale": zeros(6, 4, 2)},
        "'v_scale' must be left out but for int8 and float8_e4m3fn caches, got one",
    ),
    ({**BYTES, "k_scale": None}, "'k_scale' must be given, got NULL"),
    ({**FLOAT8, "v_scale": zeros(6, 4, 2)}, "'k_scale' must be given, got NULL"),
    ({**FLOAT8, "k_scale": zeros(6, 4, 2)}, "'v_scale' must be given, got NULL"),
    (
        {**FLOAT8, "k_scale": zeros(6, 4, 2, dtype=np.float16)},
        "'k_scale' must have dtype float32, got float16",
    ),
    ({"v_cache": FLOAT8["v_cache"]}, "'v_cache' must have dtype float32, got float8_e4m3fn"),
    (
        {**FLOAT8, "v_cache": BYTES["v_cache"]},
        "'v_cache' must have dtype float8_e4m3fn, got int8",
    ),
    (
        {"k_cache": zeros(6, 4, 2, 3, dtype=np.float64)},
        "'k_cache' must have dtype float32 or float16 or bfloat16 or int8 or float8_e4m3fn, "
        "got float64",
    ),
    (
        {"k": FLOAT8["k_cache"][0, :3]},
        "'k' must have dtype float32 or float16 or bfloat16, got float8_e4m3fn",
    ),
    (
        {**BYTES, "v_scale": zeros(6, 4, 1)},
        "'v_scale' must have shape [P=6, T=4, G=2], got [6, 4, 1]",
    ),
    ({"cos": zeros(5, 1)}, "'cos' must be left out without rope, got one"),
    ({"sin": zeros(5, 1)}, "'sin' must be left out without rope, got one"),
    ({"positions": ints(0, 1, 2)}, "'positions' must be left out without rope, got one"),
    ({**ROPE, "cos": None}, "'cos' must be given, got NULL"),
    ({**ROPE, "sin": zeros(4, 1)}, "'sin' must have shape [S=5, R=1], got [4, 1]"),
    (
        {**ROPE, "cos": zeros(5, 2), "sin": zeros(5, 2)},
        "'cos' must have at most D/2=1 columns, got 2",
    ),
    (
        {**ROPE, "length": ints(0, 4)},
        "'cos' must have a row for every position, got 5 rows and position 5",
    ),
    ({**ROPE, "positions": ints(0, 5, 1)}, "'positions[1]' must lie in [0, S=5), got 5"),
    ({**ROPE, "positions": ints(0, 1, -1)}, "'positions[2]' must lie in [0, S=5), got -1"),
    (shared(), "'v_cache' must not overlap 'k_cache', got shared memory"),
    (inside(), "'k_cache' must not overlap 'k', got shared memory"),
    ({"k_cache": broadcast()}, "'k_cache' must not overlap itself, got strides that do"),
]


@pytest.mark.parametrize(("changes", "message"), APPEND_ERRORS, ids=text)
def test_kv_append(changes: dict[str, Any], message: str) -> None:
    refuses(lambda: append(**changes), ValueError, f"fewstep_kv_append: {message}")


def test_kv_append_rope() -> None:
    refuses(
        lambda: append(rope="llama"),
        ValueError,
        "fewstep.kv.append: 'rope' must be one of neox, gptj or None, got 'llama'",
    )


def test_kv_append_as_given() -> None:
    """What the tests above change is right."""
    append()
    append(**BYTES)
    append(**ROPE)


COMMIT = {
    "k_cache": [zeros(6, 4, 2, 3), zeros(6, 4, 2, 3)],
    "v_cache": [zeros(6, 4, 2, 3), zeros(6, 4, 2, 3)],
    "path": ints([0, 2, -1], [1, 3, 4]), "accepted": ints(2, 3), "base": ints(1, 3),
    "page_table": ints([5, -1], [2, 3]), "length": ints(0, 0),
}  # fmt: skip
commit = Given(kv.commit, **COMMIT)
K = COMMIT["k_cache"]
COMMIT_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"k_cache": []}, "'v_cache' must hold 0 arrays, as many as 'k_cache', got 2"),
    ({"k_cache": [], "v_cache": []}, "'k_cache' must hold 1 to 256 layers, got 0"),
    (
        {"k_cache": [K[0], zeros(6, 4, 2, 4)]},
        "'k_cache[1]' must have shape [P=6, T=4, G=2, D=3], got [6, 4, 2, 4]",
    ),
    (
        {"k_cache": [K[0], zeros(6, 4, 2, 3, dtype=np.float16)]},
        "'k_cache[1]' must have dtype float32, got float16",
    ),
    (
        {"k_cache": [K[0], K[0]]},
        "'k_cache[1]' must not be 'k_cache[0]', got the same memory",
    ),
    (
        {"v_cache": [zeros(6, 4, 2, 3), K[1]]},
        "'v_cache[1]' must not overlap 'k_cache[1]', got shared memory",
    ),
    (
        {"k_scale": [zeros(6, 4, 2)] * 2},
        "'k_scale' must be left out but for int8 and float8_e4m3fn caches, got one",
    ),
    ({"path": ints([0, 2, 1])}, "'accepted' must have shape [B=1], got [2]"),
    ({"path": zeros(2, 3)}, "'path' must have dtype int32, got float32"),
    (
        {"path": ints([0, 0, -1], [1, 3, 4])},
        "'path[0]' must increase from 0 on, got 0 at entry 1",
    ),
    (
        {"path": ints([-1, 0, -1], [1, 3, 4])},
        "'path[0]' must increase from 0 on, got -1 at entry 0",
    ),
    ({"first": 1}, "'path[0]' must increase from 1 on, got 0 at entry 0"),
    ({"first": -1}, "'first' must be 0 or more, got -1"),
    (
        {"path": ints([0, 2, -1], [1, 3, 5])},
        "'path' must leave request 1 within its cache of 8 slots, got 9",
    ),
    ({"base": ints(-1, 3)}, "'base[0]' must be 0 or more, got -1"),
    (
        {"base": ints(1, 6)},
        "'base' must leave request 1 within its cache of 8 slots, got 9",
    ),
    (
        {"base": ints(2, 3)},
        "'page_table' must have a page in [0, 6) for slot 4 of request 0, got -1",
    ),
    ({"accepted": ints(2, 4)}, "'accepted[1]' must lie in [0, M=3], got 4"),
    ({"accepted": ints(-1, 3)}, "'accepted[0]' must lie in [0, M=3], got -1"),
    ({"length": ints(0, 0, 0)}, "'length' must have shape [B=2], got [3]"),
    (
        {"length": COMMIT["base"]},
        "'length' must not overlap 'base', got shared memory",
    ),
    (
        {"page_table": None},
        "'page_table' must be given for caches of other than B=2 pages, got none with P=6",
    ),
]


@pytest.mark.parametrize(("changes", "message"), COMMIT_ERRORS, ids=text)
def test_kv_commit(changes: dict[str, Any], message: str) -> None:
    refuses(lambda: commit(**changes), ValueError, f"fewstep_kv_commit: {message}")


def test_kv_commit_as_given() -> None:
    commit()


GATHER = {
    "k_cache": [zeros(6, 4, 2, 3), zeros(6, 4, 2, 3)],
    "v_cache": [zeros(6, 4, 2, 3), zeros(6, 4, 2, 3)],
    "index": ints([0, 2, -1], [1, 3, 7]), "count": ints(2, 3), "page_table": ints([5, -1], [2, 3]),
}  # fmt: skip
gather = Given(kv.gather, **GATHER)
GATHER_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"index": ints(0, 1)}, "'index' must have shape [B, M], got [2]"),
    ({"count": ints(2, 3, 1)}, "'count' must have shape [B=2], got [3]"),
    ({"count": ints(2, 4)}, "'count[1]' must lie in [0, M=3], got 4"),
    (
        {"index": ints([2, 0, -1], [1, 3, 7])},
        "'index[0]' must increase from 0 on, got 0 at entry 1",
    ),
    (
        {"index": ints([0, 2, -1], [1, 3, 8])},
        "'index' must leave request 1 within its cache of 8 slots, got 9",
    ),
    (
        {"index": ints([0, 4, -1], [1, 3, 7])},
        "'page_table' must have a page in [0, 6) for slot 4 of request 0, got -1",
    ),
    (
        {"index": ints(*[[[0, 2, -1], [1, 3, 7]]] * 3), "count": ints([2, 3], [2, 3], [2, 3])},
        "'index' must have L=2 layers, got 3",
    ),
    (
        {"v_cache": GATHER["k_cache"]},
        "'v_cache[0]' must not overlap 'k_cache[0]', got shared memory",
    ),
]


@pytest.mark.parametrize(("changes", "message"), GATHER_ERRORS, ids=text)
def test_kv_gather(changes: dict[str, Any], message: str) -> None:
    refuses(lambda: gather(**changes), ValueError, f"fewstep_kv_gather: {message}")


COPY = {
    "k_cache": zeros(2, 6, 4, 2, 3, dtype=np.int8), "v_cache": zeros(2, 6, 4, 2, 3, dtype=np.int8),
    "k_scale": zeros(2, 6, 4, 2), "v_scale": zeros(2, 6, 4, 2),
    "source": ints(0, -1, 5), "target": ints(1, -7, 2),
}  # fmt: skip
copy_pages = Given(kv.copy_pages, **COPY)
COPY_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"target": ints(1, 2)}, "'target' must have shape [N=3], got [2]"),
    ({"source": ints(0, -1, 6)}, "'source[2]' must lie in [0, P=6) or be -1, got 6"),
    ({"source": ints(-2, -1, 5)}, "'source[0]' must lie in [0, P=6) or be -1, got -2"),
    ({"target": ints(1, -7, 6)}, "'target[2]' must lie in [0, P=6), got 6"),
    ({"target": ints(1, -7, 5)}, "'target[2]' must be another page than its source, got 5"),
    ({"k_scale": None}, "'k_scale' must be given, got NULL"),
    (
        {"v_scale": zeros(2, 6, 4, 1)},
        "'v_scale' must have shape [L=2, P=6, T=4, G=2], got [2, 6, 4, 1]",
    ),
    (
        {"v_cache": zeros(3, 6, 4, 2, 3, dtype=np.int8)},
        "'v_cache' must have shape [L=2, P=6, T=4, G=2, D=3], got [3, 6, 4, 2, 3]",
    ),
]


@pytest.mark.parametrize(("changes", "message"), COPY_ERRORS, ids=text)
def test_kv_copy_pages(changes: dict[str, Any], message: str) -> None:
    refuses(lambda: copy_pages(**changes), ValueError, f"fewstep_kv_copy_pages: {message}")


def test_kv_gather_and_copy_pages_as_given() -> None:
    gather()
    copy_pages()


TRUNCATE: list[tuple[dict[str, Any], str]] = [
    ({"kept": ints(1, 6)}, "'kept[1]' must lie in [0, 5], the length, got 6"),
    ({"kept": ints(-1, 5)}, "'kept[0]' must lie in [0, 3], the length, got -1"),
    ({"kept": ints(1)}, "'kept' must have shape [B=2], got [1]"),
    ({"kept": np.array([1, 2])}, "'kept' must have dtype int32, got int64"),
]
truncate = Given(kv.truncate, length=ints(3, 5), kept=ints(1, 5))


@pytest.mark.parametrize(("changes", "message"), TRUNCATE, ids=text)
def test_kv_truncate(changes: dict[str, Any], message: str) -> None:
    refuses(lambda: truncate(**changes), ValueError, f"fewstep_kv_truncate: {message}")
