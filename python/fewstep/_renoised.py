# SPDX-License-Identifier: Apache-2.0
"""CFG++: a solver that follows the unconditional output, and a sample denoised with the guided one.

Every step of the solver is taken with the unconditional output u, the outputs it remembers
included. Its result holds the newest ``x0_u`` with the whole signal that the remembered ones do not
carry, and that much of it is exchanged for ``x0_w``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ._guidance import Guidance, outside

if TYPE_CHECKING:
    from .solver import Plan, Row

# fewstep_operand and fewstep_role of fewstep/plan.h.
_SAMPLE, _SLOTS, _GUIDED, _CONDITIONAL, _UNCONDITIONAL, _CONVERTED = 0, 16, 16, 17, 18, 21
_MAX_INPUTS = 8
_ROUNDING = 1e-12  # relative; weights below it are zeros that were computed
_STATE, _HISTORY, _ANCHOR, _INPUT = range(4)


@dataclass(frozen=True)
class RenoisedGuidance(Guidance):
    """CFG++; made by `cfg_pp`."""

    def weights(self, plan: Plan) -> NDArray[np.float64]:
        """Return the weights of each row, for a plan whose rows keep no model output.

        Raises
        ------
        ValueError
            A row keeps an output or reads one; `plan` makes rows for those.
        """
        guided = []
        for number, row in enumerate(plan.rows):
            if not _keeps_nothing(row):
                raise ValueError(
                    "cfg_pp: 'plan' must take one model output per step and keep none for weights "
                    "alone (the method 'plan' takes multistep solvers too), got another solver's "
                    f"row {number}"
                )
            guided.append(_weights(row, self.scale))
        return outside(plan, self.interval, np.array(guided))

    def plan(self, plan: Plan) -> Plan:
        """Return a plan with CFG++; see `cfg_pp`.

        Raises
        ------
        ValueError
            A row corrects the sample with an output that it gets later, weighs an output from
            inside its own step, or has no room for the two outputs.
        """
        if all(map(_keeps_nothing, plan.rows)):
            return super().plan(plan)
        on = outside(plan, self.interval, np.array([[0.0, 1.0]]))[:, 0] == 0.0
        on = np.broadcast_to(on, len(plan))
        rows = plan.rows
        ends = [a.step != b.step for a, b in pairwise(rows)] + [True]
        memory = _Memory()
        made = []
        for number, row in enumerate(rows):
            signal = memory.follow(row, number, ends[number])
            if not row.evaluates:
                made.append(row)
            elif not on[number]:
                made.append(row.replace(gamma=(1.0,)))
            elif not ends[number]:
                made.append(row.replace(gamma=(0.0, 1.0)))
            else:
                made.append(_renoised(row, self.scale * signal * row.q, number))
        return type(plan).from_rows(made, plan.name)


def _keeps_nothing(row: Row) -> bool:
    """Whether weights alone can guide a row: its history, if any, is neither written nor read."""
    allowed = {_SAMPLE, _GUIDED, _CONVERTED}
    return bool(row.evaluates and set(row.input) <= allowed and set(row.role) <= {_STATE, _INPUT})


def _weights(row: Row, scale: float) -> tuple[float, float]:
    """Return the weights with which a one-node row denoises guided and renoises unguided.

    With ``x' = a x + b x0`` the signal after the row is ``A = a alpha + b`` and the noise
    ``a sigma``, so CFG++'s ``x' = A x0_w + a sigma e_u`` is the row with
    ``b x0 = A x0_w - a alpha x0_u``.
    """
    a, b = _split(row, row.a[row.role.index(_STATE)])
    weight = scale * (a * row.alpha + b) / b if b else scale
    return weight, 1.0 - weight


def _split(row: Row, weights: tuple[float, ...]) -> tuple[float, float]:
    """Return an output's weights of the sample and of the newest x0, without slots and noise."""
    a = b = 0.0
    for operand, weight in zip(row.input, weights, strict=True):
        if operand == _SAMPLE:
            a += weight
        elif operand == _CONVERTED:
            b += weight
        elif operand == _GUIDED:  # the raw output is (x0 - p x) / q
            a -= weight * row.p / row.q
            b += weight / row.q
    return a, b


class _Memory:
    """What the slots hold: how much signal beside that of older outputs, and since which step."""

    def __init__(self) -> None:
        self.signals: dict[int, float] = {}
        self.outputs: dict[int, int] = {}  # slots with a model output: the step that wrote it

    def follow(self, row: Row, number: int, ends: bool) -> float:
        """Take a row; return the signal of its result that older outputs do not carry."""
        if any(_GUIDED < operand < _CONVERTED for operand in row.input):
            self._refuse("must not read single outputs of the model", number)
        signal = 0.0
        kept: dict[int, float] = {}
        outputs: dict[int, int] = {}
        for slot, role, weights in zip(row.output, row.role, row.a, strict=True):
            a, b = _split(row, weights)
            least = _ROUNDING * sum(map(abs, weights))
            older = {
                s: w
                for s, w in zip(row.input, weights, strict=True)
                if _SAMPLE < s < _SLOTS and abs(w) > least
            }
            total = a * row.alpha + sum(w * self.signals.get(s, 0.0) for s, w in older.items())
            if role == _STATE:
                if ends and any(self.outputs.get(s) == row.step for s in older):
                    self._refuse("must not weigh an output from inside a step", number)
                signal = total + b
            elif role == _ANCHOR:
                if b != 0.0 or older:
                    self._refuse("must not correct a sample after its step", number)
                kept[slot] = total
            elif role == _HISTORY:
                kept[slot] = total
                outputs[slot] = row.step
            elif role != _INPUT:
                self._refuse("must keep samples and model outputs only", number)
        self.signals.update(kept)
        self.outputs.update(outputs)
        for slot in kept.keys() - outputs.keys():
            self.outputs.pop(slot, None)
        return signal

    @staticmethod
    def _refuse(what: str, number: int) -> None:
        raise ValueError(f"cfg_pp: 'plan' {what}, got one whose row {number} does otherwise")


def _renoised(row: Row, moved: float, number: int) -> Row:
    """Return the row on the unconditional output, its result moved by ``moved * (c - u)``."""
    if len(row.input) + 2 > _MAX_INPUTS:
        raise ValueError(
            f"cfg_pp: 'plan' must leave two inputs for the outputs, got {len(row.input)} of "
            f"{_MAX_INPUTS} in row {number}"
        )
    weights = []
    for role, old in zip(row.role, row.a, strict=True):
        size = {_STATE: moved, _INPUT: row.next_scale * moved}.get(role, 0.0)
        weights.append((*old, size, -size))
    inputs = (*row.input, _CONDITIONAL, _UNCONDITIONAL)
    return row.replace(gamma=(0.0, 1.0), input=inputs, a=tuple(weights))
