# SPDX-License-Identifier: Apache-2.0
"""The backward pass of a solver step: its transposed rows, as a torch.autograd.Function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import _core
from .solver import Plan, Row

# fewstep_operand of fewstep/plan.h.
_SLOTS, _GUIDED, _MODEL, _CONVERTED, _KNOWN, MODEL_INPUT = 16, 16, 17, 21, 22, 23
_PASS = 4  # targets of one transposed row


_TO_GUIDED = -1  # the guided output, as a target of gradients


class _Transpose(NamedTuple):
    """Rows that turn the gradients of a row's outputs into those of what it read.

    Slots 0 to n - 1 hold the gradients of the n outputs, slot n that of the clamped x0, slots n + 1
    to n + 4 the targets of one pass.
    """

    outputs: tuple[int, ...]
    targets: tuple[int, ...]  # operands, or _TO_GUIDED
    passes: tuple[Plan, ...]
    clamp: Plan | None  # makes the gradient of the clamped x0, in slot n
    clamped: tuple[bool, ...]  # per row


def _transposed_row(lines: Sequence[NDArray[np.float64]], first: int) -> Row:
    """Return the row that writes the sums `lines` of slots to the slots from `first` on."""
    used = [k for k in range(len(lines[0])) if any(line[k] for line in lines)] or [0]
    return Row(
        input=tuple(used), output=tuple(range(first, first + len(lines))),
        a=tuple(tuple(line[used].tolist()) for line in lines),
    )  # fmt: skip


def _weights(row: Row, outputs: Sequence[int]) -> tuple[dict[int, Any], Any, bool]:
    """Weights of the gradients of outputs (and of the clamped x0) in that of each target."""
    size = len(outputs) + 1
    weights: dict[int, Any] = {}
    converted = np.zeros(size)
    for output, line in zip(row.output, row.a, strict=True):
        r = outputs.index(output)
        for operand, value in zip(row.input, line, strict=True):
            into = converted if operand == _CONVERTED else weights.setdefault(
                operand, np.zeros(size))  # fmt: skip
            into[r] += value
    clamped = bool(np.isfinite(row.clip) and converted.any())
    through = np.eye(size)[-1] if clamped else converted
    if through.any():
        weights[0] = weights.get(0, 0) + row.p * through
        weights[_GUIDED] = weights.get(_GUIDED, 0) + row.q * through
    if _GUIDED in weights:
        guided = weights[_TO_GUIDED] = weights.pop(_GUIDED)
        for j, gamma in enumerate(row.gamma):
            weights[_MODEL + j] = weights.get(_MODEL + j, 0) + gamma * guided
    return weights, converted, clamped


@lru_cache(maxsize=256)
def _transpose(plan: Plan) -> _Transpose:
    rows = plan.rows
    outputs = tuple(sorted({o for row in rows for o in row.output}))
    n = len(outputs)
    if n + 1 + _PASS > _SLOTS:
        raise NotImplementedError(
            f"fewstep.torch.step: 'plan' must write at most {_SLOTS - 1 - _PASS} different "
            f"operands, got {n}"
        )
    made = [_weights(row, outputs) for row in rows]
    targets = tuple(sorted({t for weights, _, _ in made for t in weights}))
    zero = np.zeros(n + 1)
    passes = tuple(
        Plan.from_rows([
            _transposed_row([w.get(t, zero) for t in targets[k : k + _PASS]], n + 1)
            for w, _, _ in made
        ])
        for k in range(0, len(targets), _PASS)
    )  # fmt: skip
    clamped = tuple(holds for _, _, holds in made)
    clamp = None
    if any(clamped):
        clamp = Plan.from_rows([_transposed_row([c if h else zero], n) for _, c, h in made])
    return _Transpose(outputs, targets, passes, clamp, clamped)


def _run(plan: Plan, row: Any, slots: list[Any]) -> None:
    _core.solver_step(plan, row, slots, None, None, None, None, None, None, None)


def _of_sample(values: Sequence[float], row: Any, like: torch.Tensor) -> torch.Tensor:
    """Return each sample's own number, shaped to be multiplied with `like`; 0 where row is < 0."""
    table = torch.tensor([*values, 0.0], dtype=torch.float32, device=like.device)
    if isinstance(row, int):
        return table[row]
    index = torch.where(row < 0, len(values), row).long()
    return table[index].reshape(-1, *[1] * (like.ndim - 1))


class Call(NamedTuple):
    """What a step is called with besides the tensors that are differentiated."""

    plan: Plan
    row: Any  # int, or int32 tensor [B]
    slots: int
    outputs: int  # model outputs
    seeds: Any
    mask: Any
    input_dtype: torch.dtype | None

    @property
    def written(self) -> list[int]:
        """Slots that are new after the step."""
        rows = [self.plan.rows[self.row]] if isinstance(self.row, int) else self.plan.rows
        return sorted({o for row in rows for o in row.output if o < _SLOTS})


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, guidance: Any, known: Any, *tensors: Any) -> Any:
        state, models = list(tensors[: call.slots]), tensors[call.slots :]
        slots = [None if s is None else s.detach() for s in state]
        for k in call.written:
            like = next(s for s in slots if s is not None)
            held = slots[k]
            slots[k] = torch.zeros_like(like) if held is None else held.clone()
        sample = next(s for s in slots if s is not None)
        made = None
        if call.input_dtype is not None:
            made = torch.zeros_like(sample, dtype=call.input_dtype)
        outputs = tuple(m.detach() for m in models) or None
        weights, picture = (None if t is None else t.detach() for t in (guidance, known))
        _core.solver_step(
            call.plan, call.row, slots, outputs, call.seeds, weights, picture, call.mask, made, None
        )
        ctx.call = call
        ctx.present = [s is not None for s in state]
        ctx.save_for_backward(state[0], guidance, known, *models)
        results = [slots[k] for k in call.written]
        return (*results, made) if made is not None else tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        call: Call = ctx.call
        sample, guidance, _, *models = ctx.saved_tensors
        plan, row = call.plan, call.row
        if isinstance(row, int):
            plan, row = Plan.from_rows([plan.rows[row]]), 0
        made = _transpose(plan)
        n = len(made.outputs)
        like = next(g for g in gradients if g is not None)
        given = dict(zip([*call.written, MODEL_INPUT], gradients, strict=False))
        incoming = [_float32(given.get(o), like) for o in made.outputs]
        to_known = _blended(plan, row, made, incoming, call.mask, like)
        slots: list[Any] = [*incoming, None, *(torch.zeros_like(incoming[0]) for _ in range(_PASS))]
        slots[n] = torch.zeros_like(incoming[0])
        if made.clamp is not None:
            _run(made.clamp, row, slots)
            slots[n] *= _inside(plan, row, sample, guidance, models)
        found: dict[int, Any] = {}
        for number, table in enumerate(made.passes):
            _run(table, row, slots)
            for k, target in enumerate(made.targets[number * _PASS : (number + 1) * _PASS]):
                found[target] = slots[n + 1 + k].clone()
        _untouched(plan, row, call.written, given, found)
        return _collect(ctx, plan, row, found, to_known)


def _float32(gradient: Any, like: Any) -> torch.Tensor:
    if gradient is None:
        return torch.zeros_like(like, dtype=torch.float32)
    own: torch.Tensor = gradient.to(torch.float32).contiguous().clone()
    return own


def _blended(
    plan: Plan, row: Any, made: _Transpose, incoming: list[Any], mask: Any, like: Any
) -> Any:
    """Take the mask out of the gradients of blended outputs; return the known image's share."""
    if mask is None:
        return None
    to_known = torch.zeros_like(incoming[0])
    for r, output in enumerate(made.outputs):
        place = [r_.output.index(output) if output in r_.output else None for r_ in plan.rows]
        blends = [float(r_.blend[k]) if k is not None else 0.0
                  for r_, k in zip(plan.rows, place, strict=True)]  # fmt: skip
        scales = [r_.known[k] * r_.blend[k] if k is not None else 0.0
                  for r_, k in zip(plan.rows, place, strict=True)]  # fmt: skip
        to_known += _of_sample(scales, row, like) * (1 - mask) * incoming[r]
        incoming[r] *= 1 - _of_sample(blends, row, like) * (1 - mask)
    return to_known


def _gammas(plan: Plan, j: int) -> list[float]:
    return [row.gamma[j] if j < len(row.gamma) else 0.0 for row in plan.rows]


def _column(weights: torch.Tensor, j: int, like: torch.Tensor) -> torch.Tensor:
    """Each sample's weight of output j, shaped to be multiplied with `like`."""
    return weights[:, j].reshape(-1, *[1] * (like.ndim - 1))


def _inside(plan: Plan, row: Any, sample: Any, guidance: Any, models: Sequence[Any]) -> Any:
    """1 where x0 is not clamped."""
    guided = torch.zeros_like(sample)
    for j, model in enumerate(models):
        if guidance is not None:
            weight = _column(guidance, j, sample)
        else:
            weight = _of_sample(_gammas(plan, j), row, sample)
        guided = guided + weight * model.to(torch.float32)
    p, q, clip = (_of_sample([getattr(r, f) for r in plan.rows], row, sample)
                  for f in ("p", "q", "clip"))  # fmt: skip
    x0 = p * sample + q * guided
    return (x0.abs() <= clip).to(torch.float32)


def _untouched(
    plan: Plan, row: Any, written: list[int], given: dict[int, Any], found: dict[int, Any]
) -> None:
    """Hand on the gradients of slots that a sample's own row does not write."""
    if isinstance(row, int):
        return
    for k in written:
        gradient = given.get(k)
        if gradient is not None:
            writes = _of_sample([float(k in r.output) for r in plan.rows], row, gradient)
            found[k] = found.get(k, 0) + (1 - writes) * gradient


def _collect(ctx: Any, plan: Plan, row: Any, found: dict[int, Any], to_known: Any) -> Any:
    """Return the gradients in the order of forward's arguments."""
    _, guidance, known, *models = ctx.saved_tensors
    guided = found.get(_TO_GUIDED)
    of_guidance = None
    if guidance is not None and guided is not None:
        flat = guided.flatten(1)
        of_guidance = torch.stack([(flat * m.flatten(1)).sum(1) for m in models], 1)
    of_known = None
    if known is not None:
        of_known = sum(v for v in (found.get(_KNOWN), to_known) if v is not None)
        of_known = of_known if isinstance(of_known, torch.Tensor) else None
    states = [found.get(k) if here else None for k, here in enumerate(ctx.present)]
    outputs = []
    for j, model in enumerate(models):
        gradient = found.get(_MODEL + j)
        if guidance is not None and guided is not None and gradient is not None:
            # The caller's weight in the place of the plan's.
            own = _of_sample(_gammas(plan, j), row, guided)
            gradient = gradient + (_column(guidance, j, guided) - own) * guided
        outputs.append(None if gradient is None else gradient.to(model.dtype))
    return (None, of_guidance, of_known, *states, *outputs)
