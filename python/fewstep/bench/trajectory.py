# SPDX-License-Identifier: Apache-2.0
"""All steps between the model calls of one image, model outputs given.

20 steps of DPM-Solver++(2M) with guidance on the latents of four images. Every side starts from the
same first sample: those that work in place copy it in, which is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from . import cases
from .cases import CASES, SDXL, STEPS
from .engine import Engine, coefficients_of, formula
from .rivals.compiled import CompiledTrajectory
from .rivals.diffusers import Scheduler, is_installed
from .rows import (
    TOLERANCE,
    Options,
    Row,
    WrongResult,
    add_bar,
    check,
    difference,
    timed_row,
    unmeasured_row,
)
from .syncs import syncs
from .target import Call, Target
from .timing import Timed, interleaved

CASE = "dpmpp_2m"
NAME = f"{CASE}_cfg_trajectory"
FORMULA = 2e-5  # the compiled formula after all steps, each a few roundings away
OURS = "fewstep, graph"  # what every other one is measured against


class Sides:
    """fewstep, diffusers and the compiled formula on one trajectory.

    Parameters
    ----------
    dtype : torch.dtype
        Of the model outputs, and of the sample that diffusers keeps.
    target : Target
    shape : sequence of int
        Of the latents, batch first.
    """

    def __init__(self, dtype: torch.dtype, target: Target, shape: tuple[int, ...] = SDXL) -> None:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(shape, generator=generator).to(target.device)
        batch = (2 * shape[0], *shape[1:])
        outputs = [
            torch.randn(batch, generator=generator).to(target.device, dtype) for _ in range(STEPS)
        ]
        self.rival: Scheduler | None = None
        if is_installed():
            self.rival = Scheduler(CASES[CASE], x.to(dtype), outputs, guided=True)
        nodes = self.rival.sigmas() if self.rival else cases.nodes(CASES[CASE])
        self.ours = Engine(CASES[CASE], nodes, x, outputs, guided=True)
        self.rows = [
            torch.full((shape[0],), row, dtype=torch.int32, device=target.device)
            for row in range(STEPS)
        ]

    def checked(self, tolerance: float) -> float:
        """Compare fewstep, rows given either way, with float64 and diffusers after all steps."""
        got = self.ours.trajectory().clone()
        by_array = self.ours.trajectory(self.rows)
        if not torch.equal(got, by_array):
            raise WrongResult(f"{NAME}: rows in an array give other bits than rows by number")
        error = check(f"{NAME}, float64", difference(got, self.formula()), FORMULA)
        if self.rival is None:
            return error
        return check(f"{NAME}, diffusers", difference(got, self.rival.trajectory()), tolerance)

    def formula(self) -> torch.Tensor:
        """Return the last sample in float64."""
        slots = [torch.zeros_like(slot, dtype=torch.float64) for slot in self.ours.slots]
        slots[0].copy_(self.ours.first)
        for row in range(STEPS):
            numbers = coefficients_of(self.ours.plan, row, torch.float64)
            formula(self.ours.plan, row)(numbers, slots, self.ours.outputs[row].chunk(2), None)
        return slots[0]


@dataclass(frozen=True)
class Runner:
    """One way to take all steps.

    Attributes
    ----------
    call : callable
    result : callable
        Returns the sample that the last call left.
    tolerance : float
        How far it may be from fewstep's.
    """

    call: Call
    result: Callable[[], torch.Tensor]
    tolerance: float


def trajectory(options: Options, target: Target, shape: tuple[int, ...] = SDXL) -> Iterator[Row]:
    """Measure the captured trajectory against its rivals, with and without a graph."""
    if not options.wants(NAME):
        return
    # In float32 both are the same trajectory to the last digits; 16 bits only round it.
    exact = Sides(torch.float32, target, shape).checked(TOLERANCE["float32"])
    for dtype in ("float16",) if options.quick else ("float16", "bfloat16"):
        sides = Sides(getattr(torch, dtype), target, shape)
        sides.checked(2 * TOLERANCE[dtype])
        for row in _measured(sides, dtype, target, compiled=not options.quick):
            yield row | {"float32_difference": float(f"{exact:.1e}")}


def _measured(sides: Sides, dtype: str, target: Target, compiled: bool) -> Iterator[Row]:
    runners, refused = runners_of(sides, dtype, target, compiled)
    times = interleaved({name: Timed(r.call) for name, r in runners.items()}, 3.0, target.clock)
    # After the timing: what was timed has done all of its work.
    wanted = sides.ours.trajectory().clone()
    errors = {name: after(name, runner, wanted, target) for name, runner in runners.items()}
    shape = sides.ours.first.shape
    head: Row = {
        "op": "solver.step",
        "case": NAME,
        "n": shape.numel(),
        "batch": shape[0],
        "dtype": dtype,
        **target.labels,
        "steps": STEPS,
    }
    for name, timing in times.items():
        if name == OURS:
            continue
        row = timed_row(head, name, times[OURS], timing, spread=True)
        row["us_per_step"] = round(times[OURS].median_us / STEPS, 3)
        row["difference"] = float(f"{errors[name]:.1e}")
        if name == "diffusers" and sides.rival:
            row["waits"] = syncs(sides.rival.trajectory, target.device)
        if name in cases.TRAJECTORY_BARS:
            add_bar(row, cases.TRAJECTORY_BARS[name])
        yield row
    for name, reason in refused.items():
        yield unmeasured_row(head, name, reason, times[OURS])


def runners_of(
    sides: Sides, dtype: str, target: Target, compiled: bool
) -> tuple[dict[str, Runner], dict[str, str]]:
    """Return every way to take the steps, and why the others cannot be measured."""
    ours, rival = sides.ours, sides.rival
    by_array = partial(ours.trajectory, sides.rows)
    runners = {
        OURS: Runner(target.capture(ours.trajectory), lambda: ours.slots[0], 0.0),
        "fewstep": Runner(ours.trajectory, lambda: ours.slots[0], 0.0),
        "fewstep, rows on the device, graph": Runner(
            target.capture(by_array), lambda: ours.slots[0], 0.0
        ),
    }
    refused: dict[str, str] = {}
    if compiled:
        try:
            runners |= _compiled(ours, target)
        except Exception as error:  # a compiler may raise anything
            reason = f"does not compile: {first_cause(error)}"
            refused |= dict.fromkeys(("torch.compile", "torch.compile, graph"), reason)
    if rival is None:
        names = ("diffusers", "diffusers, graph")
        return runners, refused | dict.fromkeys(names, "diffusers is not installed")
    loose = 2 * TOLERANCE[dtype]
    runners["diffusers"] = Runner(rival.trajectory, lambda: rival.x, loose)
    try:
        # Last: a capture that fails may leave the stream in a state of its own.
        runners["diffusers, graph"] = _captured_rival(rival, target, loose)
    except (RuntimeError, ValueError) as error:
        refused["diffusers, graph"] = f"not capturable: {first_cause(error)}"
    return runners, refused


def _compiled(ours: Engine, target: Target) -> dict[str, Runner]:
    torch._dynamo.reset()
    by_hand = CompiledTrajectory(ours)

    def runner(call: Call) -> Runner:
        return Runner(call, lambda: by_hand.slots[0], FORMULA)

    return {
        "torch.compile": runner(by_hand.trajectory),
        "torch.compile, graph": runner(target.capture(by_hand.trajectory)),
    }


def _captured_rival(rival: Scheduler, target: Target, tolerance: float) -> Runner:
    """Capture diffusers with the first step's index given: it would be read from the device."""
    kept: list[torch.Tensor] = []

    def call() -> None:
        kept[:] = [rival.trajectory(known_index=True)]

    return Runner(target.capture(call), lambda: kept[0], tolerance)


def first_cause(error: BaseException) -> str:
    """Return the first line of the error that came before all others."""
    while error.__context__ is not None:
        error = error.__context__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def after(name: str, runner: Runner, wanted: torch.Tensor, target: Target) -> float:
    """Take the steps once more and compare the sample they leave."""
    runner.result().zero_()
    runner.call()
    target.synchronize()
    return check(f"{NAME}, {name}", difference(runner.result(), wanted), runner.tolerance)
