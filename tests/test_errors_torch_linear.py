# SPDX-License-Identifier: Apache-2.0
"""Every error of torch's packed linear layers: type and whole message."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fewstep._torch_weight import PLACES  # noqa: E402
from fewstep.torch import Linear, pack_linears  # noqa: E402
from test_errors import Call, refuses, text  # noqa: E402

FROZEN = Linear(6, 4).requires_grad_(False)
INT8 = Linear.from_linear(nn.Linear(6, 4), "int8").requires_grad_(False)

VALUES: list[tuple[Call, str]] = [
    (
        lambda: FROZEN(torch.zeros(2, 6, dtype=torch.bfloat16)),
        "fewstep.torch.Linear: 'input' must have the weight's dtype float32, got bfloat16",
    ),
    (
        lambda: INT8(torch.zeros(2, 6, dtype=torch.float16)),
        "fewstep.torch.Linear: 'input' must have the weight's dtype float32, got float16",
    ),
    (
        lambda: FROZEN(torch.zeros(2, 6, device="meta")),
        "fewstep.torch.Linear: 'input' must be on cpu, got meta",
    ),
    (
        lambda: FROZEN(torch.zeros(2, 5)),
        "fewstep.torch.Linear: 'input' must have shape [..., I=6], got [2, 5]",
    ),
    (
        lambda: FROZEN(torch.zeros(())),
        "fewstep.torch.Linear: 'input' must have shape [..., I=6], got []",
    ),
    (
        lambda: FROZEN(torch.zeros(1, 2, 12)),
        "fewstep.torch.Linear: 'input' must have shape [..., I=6], got [1, 2, 12]",
    ),
    (
        lambda: Linear.from_linear(nn.Linear(6, 4), "int5"),
        "fewstep.torch.Linear.from_linear: 'dtype' must be None, 'int8' or 'int4', got 'int5'",
    ),
    (
        lambda: Linear.from_linear(nn.Linear(6, 4).double()),
        "fewstep.torch.Linear.from_linear: 'module' must have a weight of float32, float16, "
        "bfloat16, got float64",
    ),
    (
        lambda: Linear.from_linear(nn.Linear(6, 4, device="meta")),
        "fewstep.torch.Linear.from_linear: 'module' must have a weight on "
        f"{' or '.join(PLACES)}, got meta",
    ),
    (
        lambda: pack_linears(nn.Linear(6, 4), "float16"),
        "fewstep.torch.pack_linears: 'dtype' must be None, 'int8' or 'int4', got 'float16'",
    ),
]


@pytest.mark.parametrize(("call", "message"), VALUES, ids=text)
def test_values(call: Call, message: str) -> None:
    refuses(call, ValueError, message)
    with torch.no_grad():  # few rows go another way
        refuses(call, ValueError, message)


TYPES: list[tuple[Call, str]] = [
    (
        lambda: Linear.from_linear(nn.Conv1d(6, 4, 1)),  # type: ignore[arg-type]
        "fewstep.torch.Linear.from_linear: 'module' must be a torch.nn.Linear, got Conv1d",
    ),
    (
        lambda: pack_linears(torch.zeros(6, 4)),  # type: ignore[arg-type]
        "fewstep.torch.pack_linears: 'model' must be a torch.nn.Module, got Tensor",
    ),
    (
        lambda: FROZEN(np.zeros((2, 6), np.float32)),
        "fewstep.torch.Linear: 'input' must be a torch.Tensor, got ndarray",
    ),
    (
        lambda: FROZEN([[0.0] * 6]),
        "fewstep.torch.Linear: 'input' must be a torch.Tensor, got list",
    ),
    (
        lambda: pack_linears(nn.Linear(6, 4), skip=3),  # type: ignore[arg-type]
        "fewstep.torch.pack_linears: 'skip' must hold names, patterns and functions, got int",
    ),
    (
        lambda: pack_linears(nn.Linear(6, 4), skip=[3]),  # type: ignore[list-item]
        "fewstep.torch.pack_linears: 'skip' must hold names, patterns and functions, got int",
    ),
]


@pytest.mark.parametrize(("call", "message"), TYPES, ids=text)
def test_types(call: Call, message: str) -> None:
    refuses(call, TypeError, message)
