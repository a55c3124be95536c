# SPDX-License-Identifier: Apache-2.0
"""``torch.compile`` of the step's formula, written into preallocated tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..cases import ROW, STEPS
from ..engine import Engine, coefficients_of, formula


class Compiled:
    """The row that `engine` times, compiled for its shapes.

    The strongest thing to write by hand: one fused kernel, in place, its coefficients 0-d tensors
    so that no step compiles again.
    """

    def __init__(self, engine: Engine, function: Callable[..., None] | None = None) -> None:
        self.function: Callable[..., None] = function or torch.compile(
            formula(engine.plan, ROW), dynamic=False
        )
        self.coefficients = coefficients_of(engine.plan, ROW, torch.float32)
        self.slots = [slot.clone() for slot in engine.slots]
        output = engine.outputs[ROW % len(engine.outputs)]
        guidance = max(len(engine.plan.rows[ROW].gamma), 1)
        self.outputs = list(output.chunk(guidance)) if guidance > 1 else [output]
        self.model_input = (
            None if engine.model_input is None else torch.empty_like(engine.model_input)
        )

    def on(self, engine: Engine) -> Compiled:
        """Return the same function on another trajectory's tensors."""
        return Compiled(engine, self.function)

    def load(self, slots: list[torch.Tensor]) -> None:
        """Take over a state."""
        for own, other in zip(self.slots, slots, strict=True):
            own.copy_(other)

    def timed(self) -> None:
        """Take the step in place."""
        self.function(self.coefficients, self.slots, self.outputs, self.model_input)


class CompiledTrajectory:
    """Every row of the plan of `engine`, each form of row compiled once.

    Steps stay functions of their own: between two of them the model is called.
    """

    def __init__(self, engine: Engine) -> None:
        self.first = engine.first
        self.slots = [slot.clone() for slot in engine.slots]
        guided = engine.outputs[0].shape[0] // engine.first.shape[0]
        self.outputs = [list(output.chunk(guided)) for output in engine.outputs]
        self.model_input = (
            None if engine.model_input is None else torch.empty_like(engine.model_input)
        )
        compiled: dict[tuple[object, ...], Callable[..., None]] = {}
        self.rows: list[tuple[Callable[..., None], list[torch.Tensor]]] = []
        for row in range(STEPS):
            fields = engine.plan.rows[row]
            form = (fields.input, fields.output, len(fields.gamma))
            if form not in compiled:
                compiled[form] = torch.compile(formula(engine.plan, row), dynamic=False)
            numbers = coefficients_of(engine.plan, row, torch.float32)
            self.rows.append((compiled[form], numbers))

    def trajectory(self) -> torch.Tensor:
        """Take every step, from the first sample on; return the last."""
        self.slots[0].copy_(self.first)
        for row, (function, numbers) in enumerate(self.rows):
            output = self.outputs[row % len(self.outputs)]
            function(numbers, self.slots, output, self.model_input)
        first: torch.Tensor = self.slots[0]
        return first
