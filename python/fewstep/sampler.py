# SPDX-License-Identifier: Apache-2.0
"""The sampler: runs a plan around any model.

Dimensions: ``B`` batch, ``N...`` one sample's shape, ``n`` model outputs that guidance combines
(1 without), ``S`` state slots, ``R`` rows of the longest trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arrays import is_array
from ._batch import Batch, joined_conditions, legs_of
from ._tail import tail
from .guidance import Guidance
from .solver import Plan, step

__all__ = ["Progress", "Sampler"]

Model = Callable[..., Any]


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each row.

    Attributes
    ----------
    index, total : int
        Number of this row, from 0, and of rows in all.
    x : array, shape (B, N...), float32
        The samples now. It is the sampler's own memory: copy what must outlive the call, and do
        not write to it (the next model input is made already).
    output : array, shape (n * B, N...), or None
        The raw model output that the row consumed, if any.
    rows : array, shape (B,), int32
        Row of each sample in the joined table; -1 for a sample that has finished.
    """

    index: int
    total: int
    x: Any
    output: Any
    rows: NDArray[np.int32]


@dataclass(frozen=True)
class _Course:
    """Where each sample of a batch goes: one joined table and a row number per sample and turn."""

    plan: Plan
    start: Plan
    start_rows: NDArray[np.int32]  # [B], into `start`
    rows: NDArray[np.int32]  # [R, B], into `plan`; -1 when finished
    times: NDArray[np.float32]  # [R, B]
    outputs: tuple[int, ...]  # [R], how many a model call gives; 0 for no call
    uniform: bool  # every sample takes the same row at every turn


@lru_cache(maxsize=64)
def _course(
    plans: tuple[Plan, ...], legs: tuple[tuple[int, int], ...], with_known: bool
) -> _Course:
    """Join the plans that the samples follow; ``legs[b]`` is sample b's plan and first row."""
    kinds = {leg: number for number, leg in enumerate(dict.fromkeys(legs))}
    tails = [tail(plans[index], start) for index, start in kinds]
    starts = [t.start(0, known=with_known) for t in tails]
    joined = tails[0] if len(tails) == 1 else Plan.concat(tails)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in tails])])
    kind = np.array([kinds[leg] for leg in legs], np.int32)  # [B]
    lengths = np.array([len(tails[k]) for k in kind], np.int32)
    turn = np.arange(lengths.max(initial=0), dtype=np.int32)[:, None]
    rows = np.where(turn < lengths, offsets[kind].astype(np.int32) + turn, np.int32(-1))
    # A finished sample keeps the last time it was called with: models take its logarithm.
    last = np.minimum(turn, lengths - 1) + offsets[kind]
    outputs = np.array([row.n_guidance if row.evaluates else 0 for row in joined.rows] + [0])
    return _Course(
        plan=joined,
        start=starts[0] if len(starts) == 1 else Plan.concat(starts),
        start_rows=kind,
        rows=np.ascontiguousarray(rows, np.int32),
        times=np.asarray(joined.times, np.float32)[last],
        outputs=tuple(int(outputs[r].max()) for r in rows),  # -1 finds the 0 at the end
        uniform=len(kinds) == 1,
    )


class Sampler:
    """Draw samples from a diffusion or flow model with a solver's plan.

    Each model evaluation is followed by one call of `fewstep.solver.step`: guidance, prediction
    conversion, solver update, noise, cast and duplication of the next model input are one pass
    over memory. A sample depends on its own seed, plan and condition, never on its batch.

    Parameters
    ----------
    plan : Plan or sequence of Plan
        From `fewstep.solver.plan`. Several plans let one batch hold samples of different solvers
        and step counts; see `plan_index` of `__call__`.
    guidance : Guidance, optional
        From `fewstep.guidance`; the model is then called once for all its outputs together, and
        for the conditional one alone at rows where guidance is off.

    Raises
    ------
    ValueError
        `plan` is an empty sequence.
    TypeError
        `plan` or `guidance` is something else.

    Examples
    --------
    >>> import numpy as np, fewstep
    >>> schedule = fewstep.schedules.karras(0.002, 80.0)
    >>> plan = fewstep.solver.plan("unipc", steps=8, schedule=schedule, prediction="x0")
    >>> x = fewstep.Sampler(plan)(lambda x, t: 0.0 * x + 0.5, shape=(2, 3), seeds=[7, 8])
    >>> bool(np.allclose(x, 0.5))
    True
    """

    def __init__(self, plan: Plan | Sequence[Plan], guidance: Guidance | None = None) -> None:
        plans = (plan,) if isinstance(plan, Plan) else tuple(plan)
        if not plans:
            raise ValueError("Sampler: 'plan' must be a Plan or several, got an empty sequence")
        for item in plans:
            if not isinstance(item, Plan):
                raise TypeError(f"Sampler: 'plan' must hold Plans, got {type(item).__name__}")
        if guidance is not None and not isinstance(guidance, Guidance):
            raise TypeError(
                "Sampler: 'guidance' must be a Guidance such as guidance.cfg(4.0), "
                f"got {type(guidance).__name__}"
            )
        if guidance is not None and guidance.needs_gram:
            raise ValueError(
                "Sampler: 'guidance' must have weights that the plan decides; others are for "
                f"guidance.Guide, got {type(guidance).__name__}"
            )
        if guidance is not None:
            plans = tuple(guided_plan(p, guidance) for p in plans)
        self.plans: tuple[Plan, ...] = plans
        self.guidance = guidance

    def __call__(
        self,
        model: Model,
        shape: Sequence[int] | None = None,
        *,
        seeds: Iterable[int] | None = None,
        cond: Mapping[str, Any] | None = None,
        uncond: Mapping[str, Any] | None = None,
        plan_index: Sequence[int] | None = None,
        x0: Any = None,
        start: int | Sequence[int] | None = None,
        strength: float | None = None,
        known: Any = None,
        mask: Any = None,
        callback: Callable[[Progress], object] | None = None,
        trajectory: bool = False,
        progress: bool = False,
        dtype: Any = "float32",
        device: Any = None,
    ) -> Any:
        """Draw a batch of samples.

        Parameters
        ----------
        model : callable
            ``model(x, t, **cond)`` -> array of x's shape, float32, float16 or bfloat16; x
            [n * B, N...] of `dtype`, t [n * B] float32. With guidance the conditional half comes
            first; rows outside a guidance interval have n = 1. x is one buffer that every call
            reuses: a model must not keep it.
        shape : sequence of int, optional
            ``(B, N...)``; may be left out when `x0` or `known` has it.
        seeds : B integers of up to 64 bits, default ``range(B)``
            All of a sample's randomness.
        cond, uncond : mappings, optional
            Keyword arguments of the model. Arrays have B rows or one row for all; anything else
            is passed as it is. With guidance, `uncond` has the same keys and each pair of arrays
            is joined once, before the first call.
        plan_index : B integers, optional
            Number of the plan each sample follows; with as many plans as samples the default is
            one each, in order.
        x0 : array, shape (B, N...), optional
            Clean samples to start from (image to image); noised to the level of the first row.
        start : int or B integers, optional
            First row with `x0`; must begin a step. Where a multistep solver would read outputs
            from before it, its first rows are of first order.
        strength : float in (0, 1], optional
            Share of the plan's steps to run, instead of `start`.
        known, mask : arrays, shape (B, N...), optional
            Inpainting: where `mask` is 0 the result is `known`, where it is 1 it is drawn. `mask`
            may have one row for all.
        callback : callable, optional
            Called with a `Progress` after each row.
        trajectory : bool, default False
            Also return the samples before the first and after each row.
        progress : bool, default False
            Show a tqdm bar of model calls.
        dtype : str or dtype, default "float32"
            Of the model's input. The state itself is always float32.
        device : str or torch.device, optional
            Run with torch tensors there. Otherwise the first tensor given decides, then the
            model's own parameters when it is a torch module; without either it is numpy.

        Returns
        -------
        array, shape (B, N...), float32
            In the caller's kind; with `trajectory` a tuple of it and an array
            [R + 1, B, N...], float32.

        Raises
        ------
        ValueError
            An argument or the model's output has the wrong shape, length or range; the message
            names it and the value.
        TypeError
            The model returned something that is not an array.

        Notes
        -----
        torch models run in inference mode. Beside what the model allocates, nothing is allocated
        after the first step. One ``step`` call per model evaluation.
        """
        batch = Batch.prepare(shape, x0, known, mask, seeds, (cond, uncond), model, device, dtype)
        legs = legs_of(self.plans, batch.shape[0], plan_index, start, strength, x0 is not None)
        # An empty batch runs like one sample of which nothing is kept.
        course = _course(self.plans, legs or ((0, 0),), x0 is not None)
        conditions = joined_conditions(batch, self.guidance, cond or {}, uncond)
        run = _Run(batch, course, dtype)
        with batch.arrays.without_gradients():
            path = run.drive(model, conditions, callback, trajectory, progress)
        return (run.slots[0], path) if trajectory else run.slots[0]


class _Run:
    """Memory and loop of one call."""

    def __init__(self, batch: Batch, course: _Course, dtype: Any) -> None:
        arrays, (count, *rest) = batch.arrays, batch.shape
        outputs = max(course.outputs)
        self.batch, self.course = batch, course
        slots = max(course.plan.slots, course.start.slots)
        self.slots = [arrays.zeros(batch.shape, "float32") for _ in range(slots)]
        self.model_input = arrays.zeros((outputs * count, *rest), dtype)
        self.times = arrays.convert(np.tile(course.times[:, :count], (1, outputs)))  # [R, n * B]
        self.rows: Sequence[Any] = arrays.convert(course.rows)
        if course.uniform:
            self.rows = range(len(course.rows))
        self.start_rows: Any = 0 if course.uniform else arrays.convert(course.start_rows)

    def drive(
        self,
        model: Model,
        conditions: dict[str, Any],
        callback: Callable[[Progress], object] | None,
        keep: bool,
        progress: bool,
    ) -> Any:
        """Run every row; returns the trajectory if it is kept."""
        batch, course, slots = self.batch, self.course, self.slots
        seeds, known, mask, model_input = batch.seeds, batch.known, batch.mask, self.model_input
        total = len(course.rows)
        path = batch.arrays.zeros((total + 1, *batch.shape), "float32") if keep else None
        step(
            course.start, self.start_rows, slots, None,
            seeds=seeds, known=batch.x0, model_input=model_input,
        )  # fmt: skip
        if path is not None:
            batch.arrays.copy(path[0], slots[0])
        bar = _bar(sum(n > 0 for n in course.outputs)) if progress else None
        calls = {
            n: (n * batch.shape[0], model_input[: n * batch.shape[0]], _first(conditions, n, batch))
            for n in set(course.outputs)
        }
        for turn in range(total):
            output = None
            if course.outputs[turn]:
                rows, x, arguments = calls[course.outputs[turn]]
                output = checked_output(model(x, self.times[turn, :rows], **arguments), x)
            step(
                course.plan, self.rows[turn], slots, output,
                seeds=seeds, known=known, mask=mask, model_input=model_input,
            )  # fmt: skip
            if path is not None:
                batch.arrays.copy(path[turn + 1], slots[0])
            if bar is not None and output is not None:
                bar.update()
            if callback is not None:
                callback(
                    Progress(turn, total, slots[0], output, course.rows[turn, : batch.shape[0]])
                )
        if bar is not None:
            bar.close()
        return path


def guided_plan(plan: Plan, guidance: Guidance) -> Plan:
    """Return the plan with guidance; rows of the conditional output alone ask for no other."""
    weights = guidance.weights(plan)
    guided = plan.with_guidance(weights)
    alone = np.broadcast_to((weights[:, 0] == 1) & (weights[:, 1:] == 0).all(1), len(plan))
    if not alone.any():
        return guided
    rows = [
        row.replace(gamma=(1.0,)) if one and row.evaluates else row
        for row, one in zip(guided.rows, alone, strict=True)
    ]
    return Plan.from_rows(rows, plan.name)


def _first(conditions: dict[str, Any], outputs: int, batch: Batch) -> dict[str, Any]:
    """Return the conditions of the first `outputs` model outputs."""
    rows = outputs * batch.shape[0]
    return {k: v[:rows] if is_array(v) and v.ndim else v for k, v in conditions.items()}


def checked_output(output: Any, model_input: Any) -> Any:
    """Return a model's output if `solver.step` can take it."""
    if not is_array(output):
        raise TypeError(f"Sampler: 'model' must return an array, got {type(output).__name__}")
    if output.shape != model_input.shape:
        raise ValueError(
            f"Sampler: 'model' must return shape {list(model_input.shape)}, "
            f"got {list(output.shape)}"
        )
    if isinstance(output, np.ndarray):
        # NumPy promotes to float64 easily, and the state is float32: nothing is lost by the cast.
        if output.dtype == np.float64:
            return output.astype(np.float32)
        contiguous = output.flags.c_contiguous
    else:
        contiguous = output.is_contiguous()  # convolutions may answer with channels last
    if contiguous and output is not model_input:
        return output
    return output.copy() if isinstance(output, np.ndarray) else output.clone().contiguous()


def _bar(total: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("Sampler: 'progress' needs tqdm: pip install tqdm") from error
    return tqdm(total=total, desc="sampling", unit="call")
