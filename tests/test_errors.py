# SPDX-License-Identifier: Apache-2.0
"""Every error's type and whole message: ``<function>: '<argument>' must ..., got <value>``.

And that a refused call leaves the caller's tensors as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep import noise, schedules, solver

GRAMMAR = re.compile(r"[\w.]+: '[\w\[\].]+' must .+, got .+", re.S)
KARRAS = schedules.karras(0.1, 10.0)
SOLVERS = ", ".join(solver.SOLVERS)

Call = Callable[[], Any]


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def plan(name: str = "euler", steps: int = 4, **options: Any) -> Any:
    return solver.plan(name, steps=steps, schedule=KARRAS, **options)


def refuses(call: Call, kind: type[Exception], message: str) -> None:
    """Check an error's exact type and text, and that the text follows the grammar."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.type is kind
    assert str(caught.value) == message
    assert GRAMMAR.fullmatch(message)


def text(value: Any) -> str:
    """Name a parametrised case by its message's argument."""
    match = re.search(r": '([^']+)'", value) if isinstance(value, str) else None
    return match[1] if match else ""


NORMAL: list[tuple[Call, str]] = [
    (
        lambda: noise.normal([1.5], (4,)),
        "fewstep_noise_normal: 'seeds' must have dtype int64 or uint64, got float64",
    ),
    (
        lambda: noise.normal([[1]], (4,)),
        "fewstep_noise_normal: 'seeds' must have shape [B], got [1, 1]",
    ),
    (
        lambda: noise.normal([1], (4,), scale=float("nan")),
        "fewstep_noise_normal: 'scale' must be finite, got nan",
    ),
    (
        lambda: noise.normal([1], out=zeros(2, 4)),
        "fewstep_noise_normal: 'out' must have shape [B=1, N...], got [2, 4]",
    ),
    (
        lambda: noise.normal([1], out=zeros(1, 4, dtype=np.float64)),
        "fewstep_noise_normal: 'out' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        lambda: noise.normal([1], out=zeros(1, 4, 4)[:, :, ::2]),
        "fewstep_noise_normal: 'out' must be contiguous after its first dimension, "
        "got a strided layout",
    ),
    (
        lambda: noise.normal([1], out=np.broadcast_to(zeros(4), (1, 4))),
        "fewstep_noise_normal: 'out' must be writable, got a read-only array",
    ),
    (
        lambda: noise.normal([1, 2], out=np.lib.stride_tricks.as_strided(zeros(8), (2, 4), (8, 4))),
        "fewstep_noise_normal: 'out' must not have overlapping rows, "
        "got a row stride of 2 elements for rows of 4",
    ),
    (
        lambda: noise.normal([1, 2]),
        "fewstep.noise.normal: 'shape' must be given without 'out', got None",
    ),
]


@pytest.mark.parametrize(("call", "message"), NORMAL, ids=text)
def test_noise_normal(call: Call, message: str) -> None:
    refuses(call, ValueError, message)


def test_noise_normal_type() -> None:
    refuses(
        lambda: noise.normal([1], out="x"),
        TypeError,
        "fewstep_noise_normal: 'out' must be an array with __dlpack__, got str",
    )


def test_noise_normal_leaves_out_alone() -> None:
    out = np.arange(8, dtype=np.float32).reshape(2, 4)
    before = out.copy()
    with pytest.raises(ValueError, match="'out' must have shape"):
        noise.normal([1, 2, 3], out=out)
    with pytest.raises(ValueError, match="'scale'"):
        noise.normal([1, 2], out=out, scale=float("inf"))
    np.testing.assert_array_equal(out, before)


SCHEDULES: list[tuple[Call, str]] = [
    (lambda: KARRAS.nodes(0), "'steps' must be 1 to 100000, got 0"),
    (lambda: KARRAS.nodes(-3), "'steps' must be 1 to 100000, got -3"),
    (
        lambda: schedules.karras(10.0, 0.1).nodes(3),
        "'sigma_min' must be below sigma_max=0.1, got 10",
    ),
    (
        lambda: schedules.karras(0.0, 0.1).nodes(3),
        "'sigma_min' must be finite and above 0, got 0",
    ),
    (
        lambda: schedules.karras(0.1, float("inf")).nodes(3),
        "'sigma_max' must be finite and above 0, got inf",
    ),
    (
        lambda: schedules.karras(0.1, 10.0, rho=0).nodes(3),
        "'rho' must be finite and above 0, got 0",
    ),
    (
        lambda: schedules.sigmas([3, 2, 2, 1]).nodes(),
        "'sigmas[2]' must be below sigmas[1]=2, got 2",
    ),
    (
        lambda: schedules.sigmas([3, 1, 2]).nodes(),
        "'sigmas[2]' must be below sigmas[1]=1, got 2",
    ),
    (
        lambda: schedules.sigmas([3, float("nan"), 0]).nodes(),
        "'sigmas[1]' must be finite, got nan",
    ),
    (
        lambda: schedules.sigmas([3, 2, 1]).nodes(7),
        "'n_sigmas' must be steps + 1 = 8, got 3",
    ),
    (
        lambda: schedules.vp_linear(beta_start=-1).nodes(3),
        "'beta_start' must be between 0 and 1, got -1",
    ),
    (lambda: schedules.flow(shift=0).nodes(3), "'shift' must be finite and above 0, got 0"),
    (
        lambda: schedules.vp_linear().nodes(2000),
        "'steps' must place at most train_steps=1000 nodes, got 2000",
    ),
]


@pytest.mark.parametrize(("call", "message"), SCHEDULES, ids=text)
def test_schedules(call: Call, message: str) -> None:
    refuses(call, ValueError, f"fewstep_schedule_create: {message}")


def test_schedules_process() -> None:
    refuses(
        lambda: schedules.sigmas([3, 2, 1], process="xx"),  # type: ignore[arg-type]
        ValueError,
        "fewstep.schedules.sigmas: 'process' must be one of vp, ve, flow, got 'xx'",
    )


PLANS: list[tuple[Call, str]] = [
    (
        lambda: plan("unipcc"),
        f"fewstep.solver.plan: 'name' must be one of {SOLVERS}, got 'unipcc' (near: unipc)",
    ),
    (lambda: plan("xyz"), f"fewstep.solver.plan: 'name' must be one of {SOLVERS}, got 'xyz'"),
    (
        lambda: plan(prediction="eps"),
        "fewstep.solver.plan: 'prediction' must be one of epsilon, x0, v, flow, edm, got 'eps'",
    ),
    (
        lambda: plan("unipc", order=9),
        "fewstep_plan_create: 'order' must be 1 to 4 for unipc, got 9",
    ),
    (
        lambda: plan("unipc", eta=0.5),
        "fewstep_plan_create: 'eta' must be left out for unipc, got 0.5",
    ),
    (
        lambda: plan("unipc", variant="bh3"),
        "fewstep_plan_create: 'variant' must be one of bh2, bh1 for unipc, got \"bh3\"",
    ),
    (lambda: plan("ddim", eta=-1), "fewstep_plan_create: 'eta' must be 0 to 1, got -1"),
    (lambda: plan("ddim", clip=-1), "fewstep_plan_create: 'clip' must be above 0, got -1"),
    (
        lambda: plan("flow_euler"),
        "fewstep_plan_create: 'schedule' must be a flow (alpha = 1 - sigma) for flow_euler, got VE",
    ),
    (
        lambda: solver.Plan.from_rows([]),
        "fewstep_plan_from_rows: 'rows' must have 1 to 16777216 rows, got 0",
    ),
    (
        lambda: solver.Plan.from_rows([solver.Row(input=[99], output=[0], a=[[1.0]])]),
        "fewstep_plan_from_rows: 'rows[0].input[0]' must be 0 to 22, got 99",
    ),
    (lambda: solver.Plan.concat([]), "fewstep_plan_concat: 'n_plans' must be at least 1, got 0"),
    (
        lambda: plan().with_guidance([1, 2, 3, 4, 5]),
        "fewstep_plan_with_guidance: 'n_guidance' must be 1 to 4, got 5",
    ),
    (
        lambda: plan().with_guidance([float("nan"), 2]),
        "fewstep_plan_with_guidance: 'weights[0]' must be finite, got nan",
    ),
    (
        lambda: plan().with_guidance([[1, 2], [3, 4]]),
        "fewstep_plan_with_guidance: 'n_weight_rows' must be 1 or 4, got 2",
    ),
    (lambda: plan().start(9), "fewstep_plan_start: 'row' must be 0 to 3, got 9"),
    (lambda: plan().start(-1), "fewstep_plan_start: 'row' must be 0 to 3, got -1"),
]


@pytest.mark.parametrize(("call", "message"), PLANS, ids=text)
def test_plans(call: Call, message: str) -> None:
    refuses(call, ValueError, message)


def test_threads() -> None:
    refuses(
        lambda: fewstep.set_num_threads(-1),
        ValueError,
        "fewstep_set_num_threads: 'threads' must be 0 or more, got -1",
    )
