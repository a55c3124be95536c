# SPDX-License-Identifier: Apache-2.0
"""One case of fewstep: the plan, its tensors, and the step that is timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import fewstep

from .cases import SCALE, STEPS, Case

# fewstep_operand of plan.h
GUIDED, MODEL, CONVERTED, MODEL_INPUT = 16, 17, 21, 23


class Engine:
    """A trajectory of `case` on given model outputs.

    Parameters
    ----------
    case : Case
    sigmas : sequence of float
        The nodes, so that both sides take the same steps.
    x : torch.Tensor, float32
        The first sample.
    outputs : sequence of torch.Tensor
        Model outputs, taken in turn; with guidance the conditional half comes first.
    guided : bool
    """

    def __init__(
        self,
        case: Case,
        sigmas: Sequence[float],
        x: torch.Tensor,
        outputs: Sequence[torch.Tensor],
        guided: bool,
    ) -> None:
        schedule = fewstep.schedules.sigmas(sigmas, process=case.process)
        plan = fewstep.solver.plan(
            case.solver,
            steps=STEPS,
            schedule=schedule,
            prediction=case.prediction,
            **case.options,
        )
        self.plan = plan.with_guidance([SCALE, 1.0 - SCALE]) if guided else plan
        self.first = x
        self.outputs = list(outputs)
        self.state = torch.zeros((self.plan.slots, *x.shape), device=x.device)
        self.slots = list(self.state)
        self.seeds = torch.arange(x.shape[0], device=x.device) if case.stochastic else None
        # Without guidance or a narrower type the state is itself what the model reads.
        needs_input = guided or outputs[0].dtype != torch.float32
        self.model_input = torch.empty_like(outputs[0]) if needs_input else None

    def step(self, row: int, rows: torch.Tensor | None = None) -> None:
        """Take one step in place; `rows`, if given, names the row for each sample."""
        fewstep.solver.step(
            self.plan,
            row if rows is None else rows,
            self.state,
            self.outputs[row % len(self.outputs)],
            seeds=self.seeds,
            model_input=self.model_input,
        )

    def run(self, rows: int) -> torch.Tensor:
        """Start again, take `rows` steps, and return the sample."""
        self.state.zero_()
        self.state[0].copy_(self.first)
        for row in range(rows):
            self.step(row)
        first: torch.Tensor = self.slots[0]
        return first

    def trajectory(self, rows: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """Take every step, from the first sample on; return the last.

        `rows`, if given, holds each step's row for each sample, shape (B,), int32: the step then
        reads it where it lies, which is what lets one captured step serve all of them.
        """
        self.slots[0].copy_(self.first)
        for row in range(STEPS):
            self.step(row, None if rows is None else rows[row])
        first: torch.Tensor = self.slots[0]
        return first

    def noise(self, row: int) -> torch.Tensor:
        """Return the normals that a row adds, for a rival that is to add the same."""
        fields = self.plan.rows[row]
        shape = tuple(self.first.shape[1:])
        values: torch.Tensor = fewstep.noise.normal(
            self.seeds,
            shape,
            step=int(fields.noise_step[0]),
            stream=int(fields.noise_stream[0]),
        )
        return values

    def tensors(self, row: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return what a row reads and what it writes, each tensor once."""
        fields = self.plan.rows[row]
        output = self.outputs[row % len(self.outputs)]
        reads: dict[int, torch.Tensor] = {}
        for operand in fields.input:
            if operand < GUIDED:
                reads[operand] = self.slots[operand]
            else:
                reads[MODEL] = output
            if operand == CONVERTED and fields.p != 0.0:
                reads[0] = self.slots[0]
        writes = [self.slots[operand] for operand in fields.output if operand != MODEL_INPUT]
        if self.model_input is not None and MODEL_INPUT in fields.output:
            writes.append(self.model_input)
        return list(reads.values()), writes

    def bytes_moved(self, row: int) -> int:
        """Return the bytes that a row reads and writes."""
        reads, writes = self.tensors(row)
        return sum(t.numel() * t.element_size() for t in [*reads, *writes])


def formula(plan: Any, row: int) -> Any:
    """Return a row of a plan as a plain torch function, the hand-written way.

    Parameters
    ----------
    plan : Plan
    row : int

    Returns
    -------
    callable
        ``f(coefficients, slots, outputs, model_input)``, which updates `slots` in place.
        `coefficients` is a list of 0-d tensors from `coefficients_of`, so that compiling it once
        serves every row of the same form. `outputs` are the raw model outputs.
    """
    fields = plan.rows[row]
    inputs = list(fields.input)
    targets = list(fields.output)
    guidance = max(len(fields.gamma), 1)

    def function(
        c: list[torch.Tensor],
        slots: list[torch.Tensor],
        outputs: list[torch.Tensor],
        model_input: torch.Tensor | None,
    ) -> None:
        kind = c[0].dtype
        guided = outputs[0].to(kind)
        if guidance > 1:
            guided = c[2] * guided
            for j in range(1, guidance):
                guided = guided + c[2 + j] * outputs[j].to(kind)
        values = []
        for operand in inputs:
            if operand < GUIDED:
                values.append(slots[operand].to(kind))
            elif operand == GUIDED:
                values.append(guided)
            elif operand == CONVERTED:
                values.append(c[0] * slots[0].to(kind) + c[1] * guided)
            else:
                values.append(outputs[operand - MODEL].to(kind))
        results = []
        at = 2 + guidance
        for _ in targets:
            total = c[at] * values[0]
            for k in range(1, len(values)):
                total = total + c[at + k] * values[k]
            at += len(values)
            results.append(total)
        for operand, value in zip(targets, results, strict=True):
            if operand != MODEL_INPUT:
                slots[operand].copy_(value)
            elif model_input is not None:
                rows = slots[0].shape[0]
                for copy in range(model_input.shape[0] // rows):
                    model_input[copy * rows : (copy + 1) * rows].copy_(value)

    return function


def coefficients_of(plan: Any, row: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return the numbers of a row in the order that `formula` reads them."""
    fields = plan.rows[row]
    numbers = [fields.p, fields.q, *(fields.gamma or (1.0,))]
    for weights in fields.a:
        numbers.extend(weights)
    return [torch.tensor(float(number), dtype=dtype) for number in numbers]
