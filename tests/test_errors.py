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
    match = re.search(r"'([^']+)'", value) if isinstance(value, str) else None
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
        "fewstep_plan_create: 'order' must be 1 to 5 for unipc, got 9",
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


EULER = plan()
MULTISTEP = plan("dpmpp_2m")
NOISY = plan("dpmpp_2m_sde")
GUIDED = plan().with_guidance([2.0, -1.0])
FROM_KNOWN = plan().start(known=True)
SEEDS = np.arange(2)


def step(
    table: Any, row: Any, state: Any = (1, 2, 4), output: Any = (2, 4), **options: Any
) -> tuple[Call, Any]:
    """Return a call of solver.step, and the state it must not touch; tuples are shapes."""

    def array(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        return np.arange(np.prod(value), dtype=np.float32).reshape(value)

    arrays = {name: array(value) for name, value in options.items()}
    given = array(state)
    return lambda: solver.step(table, row, given, array(output), **arrays), given


def shared() -> tuple[Call, Any]:
    state = zeros(1, 2, 4)
    return lambda: solver.step(EULER, 0, state, state[0]), state


def shared_input() -> tuple[Call, Any]:
    state = zeros(1, 2, 4)
    return lambda: solver.step(EULER, 0, state, zeros(2, 4), model_input=state[0]), state


def shared_slots() -> tuple[Call, Any]:
    slot = zeros(2, 4)
    return lambda: solver.step(MULTISTEP, 1, [slot, slot], zeros(2, 4)), slot


STEPS: list[tuple[tuple[Call, Any], str]] = [
    (step(EULER, 4), "'row' must lie in [0, 4), the plan's rows, got 4"),
    (step(EULER, -1), "'row' must lie in [0, 4), the plan's rows, got -1"),
    (
        step(EULER, np.array([0, 4], np.int32)),
        "'rows' must lie in [0, 4), the plan's rows, or be negative, got 4 for sample 1",
    ),
    (step(EULER, np.array([0], np.int32)), "'rows' must have shape [B=2], got [1]"),
    (step(EULER, np.array([0, 1])), "'rows' must have dtype int32, got int64"),
    (
        step(EULER, 0, zeros(1, 2, 4, dtype=np.float64)),
        "'slots[0]' must have dtype float32, got float64",
    ),
    (
        step(EULER, 0, zeros(1, 2, 4).transpose(0, 2, 1), (4, 2)),
        "'slots[0]' must be contiguous after its first dimension, got a strided layout",
    ),
    (
        step(EULER, 0, np.broadcast_to(zeros(4), (1, 2, 4))),
        "'state' must be writable, got a read-only array",
    ),
    (
        step(EULER, 0, (17, 2, 4)),
        "'state' must have shape [S, B, ...] with 1 to 16 slots S, got [17, 2, 4]",
    ),
    (step(MULTISTEP, 1, []), "'state' must hold 1 to 16 slots, got 0"),
    (step(MULTISTEP, 1), "'slots[1]' must be given for row 1 of the plan, got NULL"),
    (
        step(MULTISTEP, 1, [zeros(2, 4), zeros(2, 5)]),
        "'slots[1]' must have shape [B=2, N...=4], got [2, 5]",
    ),
    (
        step(EULER, 0, output=zeros(2, 4, dtype=np.float64)),
        "'models[0]' must have dtype float32 or float16 or bfloat16, got float64",
    ),
    (
        step(EULER, 0, output=(3, 4)),
        "'models[0]' must have shape [multiple of B=2, N...=4], got [3, 4]",
    ),
    (
        step(EULER, 0, output=None),
        "'models' must hold 1 outputs per sample, as the plan's rows in use say, got 0",
    ),
    (
        step(GUIDED, 0),
        "'models' must hold 2 outputs per sample, as the plan's rows in use say, got 1",
    ),
    (step(NOISY, 0, (2, 2, 4)), "'seeds' must be given for row 0 of the plan, got NULL"),
    (
        step(NOISY, 0, (2, 2, 4), seeds=np.arange(3)),
        "'seeds' must have shape [B=2], got [3]",
    ),
    (
        step(NOISY, 0, (2, 2, 4), seeds=(2,)),
        "'seeds' must have dtype int64 or uint64, got float32",
    ),
    (
        step(GUIDED, 0, output=(4, 4), guidance=(2, 3)),
        "'guidance' must have 2 weights per sample, one per model output, got 3",
    ),
    (
        step(GUIDED, 0, output=(4, 4), guidance=(3, 2)),
        "'guidance' must have shape [B=2, G], got [3, 2]",
    ),
    (
        step(EULER, 0, model_input=(3, 4)),
        "'model_input' must have shape [multiple of B=2, N...=4], got [3, 4]",
    ),
    (
        step(EULER, 0, model_input=zeros(2, 4, dtype=np.int32)),
        "'model_input' must have dtype float32 or float16 or bfloat16, got int32",
    ),
    (
        step(FROM_KNOWN, 0, output=None, seeds=SEEDS),
        "'known' must be given for row 0 of the plan, got NULL",
    ),
    (
        step(FROM_KNOWN, 0, output=None, seeds=SEEDS, known=(2, 5)),
        "'known' must have shape [B=2, N...=4], got [2, 5]",
    ),
    (
        step(EULER, 0, mask=(3, 4), known=(2, 4)),
        "'mask' must have shape [1 or B=2, N...=4], got [3, 4]",
    ),
    (shared(), "'slots[0]' must not overlap 'models[0]', got shared memory"),
    (shared_input(), "'slots[0]' must not overlap 'model_input', got shared memory"),
    (shared_slots(), "'slots[0]' must not overlap 'slots[1]', got shared memory"),
]


@pytest.mark.parametrize(("case", "message"), STEPS, ids=text)
def test_solver_step(case: tuple[Call, Any], message: str) -> None:
    call, state = case
    before = [np.array(slot) for slot in state]
    refuses(call, ValueError, f"fewstep_solver_step: {message}")
    for slot, copy in zip(state, before, strict=True):
        np.testing.assert_array_equal(slot, copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "x"}, "'state' must be an array with __dlpack__, got str"),
        ({"seeds": [1, 2]}, "'seeds' must be an array with __dlpack__, got list"),
    ],
)
def test_solver_step_type(options: dict[str, Any], message: str) -> None:
    call, _ = step(NOISY, 0, **{"state": (2, 2, 4), **options})
    refuses(call, TypeError, f"fewstep_solver_step: {message}")
