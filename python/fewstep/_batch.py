# SPDX-License-Identifier: Apache-2.0
"""Checks of what a sampler is called with; the arrays of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._arrays import Arrays, is_array, is_torch
from ._tail import first_row
from .guidance import Guidance, Thresholding, TimeShift
from .solver import Plan

_PRIOR = 3  # FEWSTEP_PROCESS_PRIOR


@dataclass(frozen=True)
class Batch:
    """The caller's arrays, checked and of one kind."""

    arrays: Arrays
    shape: tuple[int, ...]
    seeds: Any  # [B] int64
    x0: Any  # [B, N...] float32, or the initial samples, or None
    known: Any  # or the prior
    mask: Any
    guidance: Guidance | None = None
    thresholding: Thresholding | None = None
    time_shift: TimeShift | None = None

    @classmethod
    def prepare(
        cls,
        shape: Sequence[int] | None,
        x0: Any,
        known: Any,
        mask: Any,
        seeds: Iterable[int] | None,
        conditions: tuple[Mapping[str, Any] | None, ...],
        model: object,
        device: Any,
        dtype: Any,
        *,
        prior: Any = None,
        initial: Any = None,
        plans: tuple[Plan, ...] = (),
    ) -> Batch:
        if not callable(model):
            raise TypeError(f"Sampler: 'model' must be callable, got {type(model).__name__}")
        if initial is not None and (x0 is not None or prior is not None):
            other = "x0" if x0 is not None else "prior"
            raise ValueError(f"Sampler: '{other}' must be None with 'initial', got an array")
        _check_prior(plans, prior, x0, known)
        given = [x0, known, mask, prior, initial, seeds]
        given += [value for mapping in conditions for value in (mapping or {}).values()]
        arrays = Arrays.of(device, model, given, dtype)
        if shape is None:
            source = next((a for a in (x0, known, prior, initial) if a is not None), None)
            if source is None:
                raise ValueError("Sampler: 'shape' must be given without 'x0' or 'known', got None")
            shape = source.shape
        size = tuple(int(n) for n in shape)
        if not size or min(size) < 0:
            raise ValueError(f"Sampler: 'shape' must be (B, N...), got {list(size)}")
        if (known is None) != (mask is None):
            names = ("known", "mask") if known is None else ("mask", "known")
            raise ValueError(f"Sampler: '{names[0]}' must be given with '{names[1]}', got None")
        named = {"x0": x0, "known": known, "prior": prior, "initial": initial}
        tensors = {name: _sized(arrays, name, value, (size,)) for name, value in named.items()}
        return cls(
            arrays,
            size,
            _seeds(arrays, seeds, size[0]),
            tensors["x0"] if initial is None else tensors["initial"],
            tensors["known"] if prior is None else tensors["prior"],
            _sized(arrays, "mask", mask, (size, (1, *size[1:]))),
        )


def _check_prior(plans: tuple[Plan, ...], prior: Any, x0: Any, known: Any) -> None:
    """Refuse a prior without its process, and the other way round."""
    kinds = {plan.process == _PRIOR for plan in plans}
    if len(kinds) > 1:
        raise ValueError("Sampler: 'plan' must not mix plans with and without a prior, got both")
    if kinds == {True} and prior is None:
        raise ValueError("Sampler: 'prior' must be given for a process with a prior, got None")
    if prior is None:
        return
    if True not in kinds:
        raise ValueError("Sampler: 'prior' must be None unless the process has one, got an array")
    for name, value in (("x0", x0), ("known", known)):
        if value is not None:
            raise ValueError(f"Sampler: '{name}' must be None with 'prior', got an array")


def _seeds(arrays: Arrays, seeds: Any, count: int) -> Any:
    """Return the low 64 bits of each seed, int64."""
    if seeds is None:
        return arrays.arange(count)
    if is_torch(seeds):  # may be on a device, where looking at one would wait for it
        if seeds.is_floating_point() or seeds.is_complex():
            raise ValueError(f"Sampler: 'seeds' must be integers, got {seeds.dtype}")
        if tuple(seeds.shape) != (count,):
            raise ValueError(
                f"Sampler: 'seeds' must have B={count} integers, got {list(seeds.shape)}"
            )
        return arrays.convert(seeds, "int64", "seeds")
    values = [int(s) & 0xFFFF_FFFF_FFFF_FFFF for s in seeds]
    if len(values) != count:
        raise ValueError(f"Sampler: 'seeds' must have B={count} integers, got {len(values)}")
    return arrays.convert(np.array(values, np.uint64).view(np.int64), name="seeds")


def _sized(arrays: Arrays, name: str, value: Any, shapes: Sequence[tuple[int, ...]]) -> Any:
    """Return `value` as float32 of one of `shapes`; None stays."""
    if value is None:
        return None
    value = arrays.convert(value, "float32", name)
    if tuple(value.shape) not in shapes:
        raise ValueError(
            f"Sampler: '{name}' must have shape {list(shapes[0])}, got {list(value.shape)}"
        )
    return value


def _per_sample(name: str, values: Sequence[int], count: int) -> list[int]:
    result = [int(v) for v in values]
    if len(result) != count:
        raise ValueError(f"Sampler: '{name}' must have B={count} integers, got {len(result)}")
    return result


def legs_of(
    plans: tuple[Plan, ...],
    count: int,
    plan_index: Sequence[int] | None,
    start: int | Sequence[int] | None,
    strength: float | None,
    with_x0: bool,
) -> tuple[tuple[int, int], ...]:
    """Return the plan's number and the first row of each sample."""
    if plan_index is None and len(plans) not in (1, count):
        raise ValueError(
            f"Sampler: 'plan_index' must be given for {len(plans)} plans and B={count}, got None"
        )
    if plan_index is None:
        index = [0] * count if len(plans) == 1 else list(range(count))
    else:
        index = _per_sample("plan_index", plan_index, count)
    for number in index:
        if not 0 <= number < len(plans):
            raise ValueError(f"Sampler: 'plan_index' must be in [0, {len(plans)}), got {number}")
    if start is not None and strength is not None:
        raise ValueError(f"Sampler: 'strength' must be None when 'start' is given, got {strength}")
    for name, value in (("start", start), ("strength", strength)):
        if value is not None and not with_x0:
            raise ValueError(f"Sampler: '{name}' must be None without 'x0', got {value}")
    if strength is not None:
        rows = [first_row(plan, strength) for plan in plans]
        first = [rows[i] for i in index]
    elif start is None or isinstance(start, (int, np.integer)):
        first = [int(start or 0)] * count
    else:
        first = _per_sample("start", start, count)
    return tuple(zip(index, first, strict=True))


def conditions_of(cond: Any) -> list[Mapping[str, Any]]:
    """Return the conditions of the conditional outputs: one mapping, or one for each."""
    if cond is None or isinstance(cond, Mapping):
        return [cond or {}]
    return list(cond)


def joined_conditions(
    batch: Batch,
    guidance: Guidance | None,
    conds: Sequence[Mapping[str, Any]],
    uncond: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Join the conditions of all model outputs; each array gets n * B rows."""
    count, wanted = batch.shape[0], 1 if guidance is None else guidance.n - 1
    if len(conds) != wanted:
        raise ValueError(
            f"Sampler: 'cond' must hold {wanted} mappings, one for each conditional output, "
            f"got {len(conds)}"
        )
    cond = conds[0]
    if guidance is None:
        if uncond is not None:
            raise ValueError("Sampler: 'uncond' must be None without guidance, got a mapping")
        return {k: _rows(batch.arrays, "cond", k, v, count) for k, v in cond.items()}
    others: list[tuple[str, Mapping[str, Any] | None]] = [
        (f"cond[{i}]", other) for i, other in enumerate(conds[1:], 1)
    ]
    others.append(("uncond", uncond))
    for name, other in others:
        if other is None or set(other) != set(cond):
            got = None if other is None else sorted(other)
            raise ValueError(f"Sampler: '{name}' must have the keys {sorted(cond)}, got {got}")
    joined = {}
    for key, value in cond.items():
        parts = [_rows(batch.arrays, "cond", key, value, count)]
        for name, mapping in others:
            other = (mapping or {})[key]
            if is_array(value) != is_array(other) or not (is_array(value) or value == other):
                raise ValueError(
                    f"Sampler: '{name}[{key!r}]' must be an array as cond's or the same object, "
                    f"got {type(other).__name__}"
                )
            parts.append(_rows(batch.arrays, name, key, other, count))
        joined[key] = batch.arrays.concatenate(parts) if is_array(value) else value
    return joined


def _rows(arrays: Arrays, name: str, key: str, value: Any, count: int) -> Any:
    """Return an array with B rows; what is not an array stays as it is."""
    if not is_array(value) or value.ndim == 0:
        return value
    value = arrays.convert(value, name=f"{name}[{key!r}]")
    if value.shape[0] == count:
        return value
    if value.shape[0] != 1:
        raise ValueError(
            f"Sampler: '{name}[{key!r}]' must have B={count} rows or 1, got {value.shape[0]}"
        )
    return arrays.concatenate([value] * count) if count else value[:0]
