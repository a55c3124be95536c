# SPDX-License-Identifier: Apache-2.0
"""``torch.compile`` of the step's formula, written into preallocated tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..cases import ROW
from ..engine import Engine, coefficients_of, formula


class Compiled:
    """The row that `engine` times, compiled for its shapes.

    The strongest thing to write by hand: one fused kernel, in place, its coefficients 0-d tensors
    so that no step compiles again.
    """

    def __init__(self, engine: Engine) -> None:
        self.function: Callable[..., None] = torch.compile(formula(engine.plan, ROW), dynamic=False)
        self.coefficients = coefficients_of(engine.plan, ROW, torch.float32)
        self.slots = [slot.clone() for slot in engine.slots]
        output = engine.outputs[ROW % len(engine.outputs)]
        guidance = max(len(engine.plan.rows[ROW].gamma), 1)
        self.outputs = list(output.chunk(guidance)) if guidance > 1 else [output]
        self.model_input = (
            None if engine.model_input is None else torch.empty_like(engine.model_input)
        )

    def load(self, slots: list[torch.Tensor]) -> None:
        """Take over a state."""
        for own, other in zip(self.slots, slots, strict=True):
            own.copy_(other)

    def timed(self) -> None:
        """Take the step in place."""
        self.function(self.coefficients, self.slots, self.outputs, self.model_input)
