# SPDX-License-Identifier: Apache-2.0
"""Every error of the solver family's reductions: type and whole message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import schedules, solver
from test_errors import Call, refuses, text, zeros

X = zeros(2, 4)


def doubles(*shape: int) -> Any:
    return zeros(*shape, dtype=np.float64)


GRAM: list[tuple[Call, str]] = [
    (lambda: solver.gram([]), "fewstep.solver.gram: 'arrays' must hold 1 to 4 arrays, got 0"),
    (
        lambda: solver.gram([X] * 5),
        "fewstep_solver_gram: 'arrays' must hold at most 4 arrays of B rows, got 5",
    ),
    (
        lambda: solver.gram([zeros(10, 4)], split=5),
        "fewstep_solver_gram: 'arrays' must hold at most 4 arrays of B rows, got 5",
    ),
    (
        lambda: solver.gram(X, split=3),
        "fewstep.solver.gram: 'split' must be 1 or more and divide the rows of the first array, 2, "
        "got 3",
    ),
    (
        lambda: solver.gram(zeros()),
        "fewstep.solver.gram: 'arrays' must have shape [B, ...], got []",
    ),
    (
        lambda: solver.gram([X, zeros(2, 5)]),
        "fewstep_solver_gram: 'arrays[1]' must have shape [multiple of B=2, N...=4], got [2, 5]",
    ),
    (
        lambda: solver.gram([X, zeros(3, 4)]),
        "fewstep_solver_gram: 'arrays[1]' must have shape [multiple of B=2, N...=4], got [3, 4]",
    ),
    (
        lambda: solver.gram([X, doubles(2, 4)]),
        "fewstep_solver_gram: 'arrays[1]' must have dtype float32 or float16 or bfloat16, "
        "got float64",
    ),
    (
        lambda: solver.gram(zeros(2, 4, 4)[:, :, ::2]),
        "fewstep_solver_gram: 'arrays[0]' must be contiguous after its first dimension, "
        "got a strided layout",
    ),
    (
        lambda: solver.gram(X, out=zeros(2, 2, 2)),
        "fewstep_solver_gram: 'out' must have dtype float64, got float32",
    ),
    (
        lambda: solver.gram(X, out=doubles(2, 2, 3)),
        "fewstep_solver_gram: 'out' must have shape [B=2, K=2, K=2], got [2, 2, 3]",
    ),
    (
        lambda: solver.gram(X, out=doubles(2, 3, 3)),
        "fewstep_solver_gram: 'out' must have 2 rows per matrix, one more than arrays, got 3",
    ),
    (
        lambda: solver.gram(X, out=np.broadcast_to(doubles(2, 2), (2, 2, 2))),
        "fewstep_solver_gram: 'out' must be writable, got a read-only array",
    ),
    (
        lambda: solver.gram(X, workspace=zeros(3, dtype=np.int64)),
        "fewstep_solver_gram: 'workspace' must have 4 elements or more, got 3",
    ),
    (
        lambda: solver.gram(X, workspace=zeros(8, dtype=np.int32)),
        "fewstep_solver_gram: 'workspace' must have dtype int64, got int32",
    ),
    (
        lambda: solver.gram(X, workspace=zeros(8, dtype=np.int64)[::2]),
        "fewstep_solver_gram: 'workspace' must be contiguous, got a strided layout",
    ),
]


def shared_out() -> Any:
    memory = doubles(2, 2, 2)
    return solver.gram(memory.view(np.float32).reshape(2, 8), out=memory)


GRAM.append(
    (shared_out, "fewstep_solver_gram: 'out' must not overlap 'arrays[0]', got shared memory")
)


@pytest.mark.parametrize(("call", "message"), GRAM, ids=text)
def test_solver_gram(call: Call, message: str) -> None:
    refuses(call, ValueError, message)


def test_solver_gram_type() -> None:
    refuses(
        lambda: solver.gram("x"),
        TypeError,
        "fewstep.solver.gram: 'arrays' must be an array, got str",
    )


def test_solver_gram_leaves_out_alone() -> None:
    out = np.full((2, 2, 2), 5.0)
    for arguments in (
        {"workspace": zeros(1, dtype=np.int64)},
        {"arrays": zeros(2, 4, 4)[..., ::2]},
    ):
        with pytest.raises(ValueError, match="must"):
            solver.gram(**{"arrays": X, "out": out, **arguments})
    assert (out == 5.0).all()


QUANTILE: list[tuple[Call, str]] = [
    (lambda: solver.quantile(X, 1.5), "'q' must lie in [0, 1], got 1.5"),
    (lambda: solver.quantile(X, -0.1), "'q' must lie in [0, 1], got -0.1"),
    (lambda: solver.quantile(X, float("nan")), "'q' must lie in [0, 1], got nan"),
    (
        lambda: solver.quantile(zeros(2, 0), 0.5),
        "'x' must have 1 to 4294967295 elements per sample, got 0",
    ),
    (
        lambda: solver.quantile(doubles(2, 4), 0.5),
        "'x' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        lambda: solver.quantile(zeros(2, 4, 4)[..., ::2], 0.5),
        "'x' must be contiguous after its first dimension, got a strided layout",
    ),
    (lambda: solver.quantile(X, 0.5, out=zeros(3)), "'out' must have shape [B=2], got [3]"),
    (lambda: solver.quantile(X, 0.5, out=doubles(2)), "'out' must have dtype float32, got float64"),
    (
        lambda: solver.quantile(X, 0.5, workspace=zeros(9, dtype=np.int64)),
        "'workspace' must have 2056 elements or more, got 9",
    ),
]


@pytest.mark.parametrize(("call", "message"), QUANTILE, ids=text)
def test_solver_quantile(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_solver_quantile: {message}")


def test_solver_quantile_shape() -> None:
    refuses(
        lambda: solver.quantile(zeros(), 0.5),
        ValueError,
        "fewstep.solver.quantile: 'x' must have shape [B, ...], got []",
    )


CLAMPED = solver.plan("ddim", steps=4, schedule=schedules.karras(0.1, 10.0), clip=1.0)
PLAIN = solver.plan("ddim", steps=4, schedule=schedules.karras(0.1, 10.0))
CLIP: list[tuple[Call, str]] = [
    (
        lambda: solver.step(CLAMPED, 0, X[None].copy(), X, clip=zeros(2, 3)),
        "'clip' must have shape [B=2, 2], got [2, 3]",
    ),
    (
        lambda: solver.step(CLAMPED, 0, X[None].copy(), X, clip=zeros(3, 2)),
        "'clip' must have shape [B=2, 2], got [3, 2]",
    ),
    (
        lambda: solver.step(CLAMPED, 0, X[None].copy(), X, clip=doubles(2, 2)),
        "'clip' must have dtype float32, got float64",
    ),
    (
        lambda: solver.step(PLAIN, 0, X[None].copy(), X, clip=zeros(2, 2)),
        "'clip' must be left out for rows that do not clamp (their plan was made without 'clip'), "
        "got one with row 0",
    ),
]


@pytest.mark.parametrize(("call", "message"), CLIP, ids=text)
def test_step_clip(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_solver_step: {message}")


ERROR_NORM: list[tuple[Call, str]] = [
    (lambda: solver.error_norm(X, X, X, atol=0.0), "'atol' must be finite and above 0, got 0"),
    (
        lambda: solver.error_norm(X, X, X, atol=float("inf")),
        "'atol' must be finite and above 0, got inf",
    ),
    (lambda: solver.error_norm(X, X, X, rtol=-1), "'rtol' must be finite and 0 or more, got -1"),
    (
        lambda: solver.error_norm(X, zeros(2, 5), X),
        "'before' must have shape [B=2, N...=4], got [2, 5]",
    ),
    (
        lambda: solver.error_norm(X, X, zeros(3, 4)),
        "'after' must have shape [B=2, N...=4], got [3, 4]",
    ),
    (
        lambda: solver.error_norm(X, X, X, minus=doubles(2, 4)),
        "'minus' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        lambda: solver.error_norm(doubles(2, 4), X, X),
        "'error' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        lambda: solver.error_norm(X, X, X, out=zeros(2)),
        "'out' must have dtype float64, got float32",
    ),
    (
        lambda: solver.error_norm(X, X, X, out=doubles(3)),
        "'out' must have shape [B=2], got [3]",
    ),
    (
        lambda: solver.error_norm(X, X, X, workspace=zeros(1, dtype=np.int64)),
        "'workspace' must have 2 elements or more, got 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERROR_NORM, ids=text)
def test_solver_error_norm(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_solver_error_norm: {message}")


def test_solver_error_norm_tolerance() -> None:
    refuses(
        lambda: solver.error_norm(X, X, X, tolerance="both"),
        ValueError,
        "fewstep.solver.error_norm: 'tolerance' must be one of sum, max, got 'both'",
    )
