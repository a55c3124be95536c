# SPDX-License-Identifier: Apache-2.0
"""Every error of the linear family: type and whole message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewstep import linear
from test_errors import Call, refuses, text, zeros

W = zeros(4, 6)
X = zeros(2, 6)
P = linear.pack(W)
INT4 = linear.pack(W, kind="int4")


def octets(count: int) -> Any:
    return zeros(count, dtype=np.uint8)


PACK: list[tuple[Call, str]] = [
    (
        lambda: linear.pack(zeros(4)),
        "fewstep.linear.pack: 'weight' must have shape [O, I], got [4]",
    ),
    (
        lambda: linear.pack(zeros()),
        "fewstep.linear.pack: 'weight' must have shape [B, ...], got []",
    ),
    (
        lambda: linear.pack(W, kind="int5"),
        "fewstep.linear.pack: 'kind' must be one of float32, float16, bfloat16, int8, int4, "
        "got 'int5'",
    ),
    (
        lambda: linear.pack(zeros(4, 6, dtype=np.float64)),
        "fewstep.linear.pack: 'weight' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        lambda: linear.pack(zeros(4, 6, dtype=np.float64), kind="float32"),
        "fewstep_linear_pack: 'weight' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        lambda: linear.pack(W, kind="int4", group=16),
        "fewstep_linear_pack: 'group' must be 32 or 64 for int4, got 16",
    ),
    (
        lambda: linear.pack(zeros(0, 6)),
        "fewstep_linear_pack: 'weight' must belong to 1 or more inputs and outputs, got 6 and 0",
    ),
    (
        lambda: linear.pack(zeros(4, 0)),
        "fewstep_linear_pack: 'weight' must belong to 1 or more inputs and outputs, got 0 and 4",
    ),
    (
        lambda: linear.pack(zeros(4, 12)[:, ::2]),
        "fewstep_linear_pack: 'weight' must be contiguous after its first dimension, "
        "got a strided layout",
    ),
    (
        lambda: linear.pack(W, out=octets(767)),
        "fewstep_linear_pack: 'out' must have the 768 bytes of O=4, I=6, got 767",
    ),
    (
        lambda: linear.pack(W, out=zeros(768)),
        "fewstep_linear_pack: 'out' must have dtype uint8, got float32",
    ),
    (
        lambda: linear.pack(W, out=octets(1536)[::2]),
        "fewstep_linear_pack: 'out' must be contiguous, got a strided layout",
    ),
]


def packed_onto_itself() -> Any:
    memory = octets(768)
    return linear.pack(memory[:96].view(np.float32).reshape(4, 6), out=memory)


PACK.append(
    (packed_onto_itself, "fewstep_linear_pack: 'out' must not overlap 'weight', got shared memory")
)


@pytest.mark.parametrize(("call", "message"), PACK, ids=text)
def test_linear_pack(call: Call, message: str) -> None:
    refuses(call, ValueError, message)


UNPACK: list[tuple[Call, str]] = [
    (
        lambda: linear.unpack(P, out=zeros(4, 5)),
        "fewstep.linear.unpack: 'out' must have shape [4, 6], got [4, 5]",
    ),
    (
        lambda: linear.unpack(P, out=zeros(4, 6, dtype=np.float16)),
        "fewstep_linear_unpack: 'out' must have dtype float32, got float16",
    ),
    (
        lambda: linear.unpack(replace(P, kind="bfloat16")),
        "fewstep.linear.unpack: 'out' must be given for bfloat16 in NumPy, got None",
    ),
    (
        lambda: linear.unpack(replace(INT4, group=48)),
        "fewstep_linear_unpack: 'group' must be 32 or 64 for int4, got 48",
    ),
    (
        lambda: linear.unpack(replace(P, data=octets(1536)[::2])),
        "fewstep_linear_unpack: 'packed' must be contiguous, got a strided layout",
    ),
]


@pytest.mark.parametrize(("call", "message"), UNPACK, ids=text)
def test_linear_unpack(call: Call, message: str) -> None:
    refuses(call, ValueError, message)


RUN: list[tuple[Call, str]] = [
    (
        lambda: linear.run(zeros(6), P),
        "fewstep.linear.run: 'x' must have shape [M, I], got [6]",
    ),
    (
        lambda: linear.run(zeros(2, 3, 6).transpose(1, 0, 2), P),
        "fewstep_linear_run: 'x' must have shape [M, I], got [3, 2, 6]",
    ),
    (
        lambda: linear.run(zeros(2, 3, 6), P, out=zeros(6, 4)),
        "fewstep.linear.run: 'out' must have shape [2, 3, 4], got [6, 4]",
    ),
    (
        lambda: linear.run(zeros(2, 5), P),
        "fewstep.linear.run: 'x' must have 6 columns, got 5",
    ),
    (
        lambda: linear.run(X, P, up=INT4),
        "fewstep.linear.run: 'up' must have the shape, kind and group of 'packed', (4, 6), "
        "float32, 32, got (4, 6), int4, 32",
    ),
    (
        lambda: linear.run(zeros(2, 6, dtype=np.int32), P, out=zeros(2, 4)),
        "fewstep_linear_run: 'x' must have dtype float32 or float16 or bfloat16, got int32",
    ),
    (
        lambda: linear.run(zeros(2, 12)[:, ::2], P),
        "fewstep_linear_run: 'x' must be contiguous after its first dimension, "
        "got a strided layout",
    ),
    (
        lambda: linear.run(X, P, out=zeros(3, 4)),
        "fewstep.linear.run: 'out' must have shape [2, 4], got [3, 4]",
    ),
    (
        lambda: linear.run(X, P, out=zeros(2, 5)),
        "fewstep.linear.run: 'out' must have shape [2, 4], got [2, 5]",
    ),
    (
        lambda: linear.run(X, replace(P, data=octets(760))),
        "fewstep_linear_run: 'packed' must have the 768 bytes of O=4, I=6, got 760",
    ),
    (
        lambda: linear.run(X, replace(P, data=zeros(768))),
        "fewstep_linear_run: 'packed' must have dtype uint8, got float32",
    ),
    (
        lambda: linear.run(X, P, up=replace(P, data=octets(760))),
        "fewstep_linear_run: 'up' must have shape [P=768], got [760]",
    ),
    (
        lambda: linear.run(X, P, bias=zeros(5)),
        "fewstep_linear_run: 'bias' must have shape [O=4], got [5]",
    ),
    (
        lambda: linear.run(X, P, bias=zeros(8)[::2]),
        "fewstep_linear_run: 'bias' must be contiguous, got a strided layout",
    ),
    (
        lambda: linear.run(X, P, residual=zeros(2, 5)),
        "fewstep_linear_run: 'residual' must have shape [M=2, O=4], got [2, 5]",
    ),
    (
        lambda: linear.run(X, P, norm=zeros(5)),
        "fewstep_linear_run: 'norm' must have shape [I=6], got [5]",
    ),
    (
        lambda: linear.run(X, P, norm=zeros(12)[::2]),
        "fewstep_linear_run: 'norm' must be contiguous, got a strided layout",
    ),
    (
        lambda: linear.run(X, P, norm=zeros(6), norm_eps=-1.0),
        "fewstep_linear_run: 'norm_eps' must be finite and 0 or more, got -1",
    ),
    (
        lambda: linear.run(X, P, norm=zeros(6), norm_eps=float("nan")),
        "fewstep_linear_run: 'norm_eps' must be finite and 0 or more, got nan",
    ),
    (
        lambda: linear.run(X, P, workspace=zeros(9, dtype=np.int64)),
        "fewstep_linear_run: 'workspace' must have 16 elements or more, got 9",
    ),
    (
        lambda: linear.run(X, P, workspace=zeros(32, dtype=np.int64)[::2]),
        "fewstep_linear_run: 'workspace' must be contiguous, got a strided layout",
    ),
    (
        lambda: linear.run(X, P, workspace=zeros(16)),
        "fewstep_linear_run: 'workspace' must have dtype int64, got float32",
    ),
    (
        lambda: linear.run(X, replace(INT4, group=16)),
        "fewstep_linear_run: 'group' must be 32 or 64 for int4, got 16",
    ),
]


def out_onto_x() -> Any:
    memory = zeros(2, 10)
    return linear.run(memory[:, :6], P, out=memory[:, 3:7])


def out_onto_part_of_residual() -> Any:
    memory = zeros(3, 4)
    return linear.run(X, P, residual=memory[:2], out=memory[1:])


RUN.append((out_onto_x, "fewstep_linear_run: 'out' must not overlap 'x', got shared memory"))
RUN.append(
    (
        out_onto_part_of_residual,
        "fewstep_linear_run: 'out' must not overlap 'residual', got shared memory",
    )
)


@pytest.mark.parametrize(("call", "message"), RUN, ids=text)
def test_linear_run(call: Call, message: str) -> None:
    refuses(call, ValueError, message)


TYPES: list[tuple[Call, str]] = [
    (
        lambda: linear.pack("w"),
        "fewstep.linear.pack: 'weight' must be an array, got str",
    ),
    (
        lambda: linear.unpack(W),  # type: ignore[arg-type]
        "fewstep.linear.unpack: 'packed' must be a fewstep.linear.Packed, got ndarray",
    ),
    (
        lambda: linear.run(X, W),  # type: ignore[arg-type]
        "fewstep.linear.run: 'packed' must be a fewstep.linear.Packed, got ndarray",
    ),
    (
        lambda: linear.run(X, P, up=W),  # type: ignore[arg-type]
        "fewstep.linear.run: 'up' must be a fewstep.linear.Packed, got ndarray",
    ),
    (lambda: linear.run("x", P), "fewstep.linear.run: 'x' must be an array, got str"),
]


@pytest.mark.parametrize(("call", "message"), TYPES, ids=text)
def test_linear_types(call: Call, message: str) -> None:
    refuses(call, TypeError, message)


def test_linear_run_leaves_out_alone() -> None:
    out = np.full((2, 4), 5.0, np.float32)
    for options in ({"bias": zeros(5)}, {"workspace": zeros(1, dtype=np.int64)}):
        with pytest.raises(ValueError, match="must"):
            linear.run(X, P, out=out, **options)
    assert (out == 5.0).all()
