# SPDX-License-Identifier: Apache-2.0
"""One trajectory: its memory, and the loop of model calls and solver steps.

On a CUDA device the loop only enqueues work: nothing in it waits for the device, copies from the
host or makes an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._arrays import is_array
from ._batch import Batch
from ._corrections import shifted_times
from ._course import Course, Tables
from ._guide import Guide
from .solver import gram, step

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


class Run:
    """Memory and loop of one trajectory."""

    def __init__(
        self,
        batch: Batch,
        course: Course,
        packed: Any,
        conditions: dict[str, Any],
        dtype: Any,
        keep: bool,
    ) -> None:
        arrays, (count, *rest) = batch.arrays, batch.shape
        self.batch, self.course = batch, course
        self.tables = Tables(arrays, course, count, packed)
        slots = max(course.plan.slots, course.start.slots)
        self.slots = [arrays.zeros(batch.shape, "float32") for _ in range(slots)]
        self.model_input = arrays.zeros((max(course.outputs) * count, *rest), dtype)
        turns = len(course.rows)
        looks = batch.guidance is not None and batch.guidance.needs_gram
        guided = looks or batch.thresholding is not None
        self.guide = Guide(batch.guidance, batch.thresholding) if guided else None
        self.shift = None if batch.time_shift is None else _Shift(batch)
        self.path = arrays.zeros((turns + 1, *batch.shape), "float32") if keep else None
        # The arguments of a model call that gives n outputs; views, so that the loop makes none.
        self.calls = {
            n: (self.model_input[: n * count], first_rows(conditions, n * count))
            for n in set(course.outputs)
        }
        most = max(course.outputs)
        self.model_times = [
            t if n == most else t[: n * count]
            for t, n in zip(self.tables.times, course.outputs, strict=True)
        ]

    def drive(
        self,
        model: Model,
        callback: Callable[[Progress], object] | None = None,
        progress: bool = False,
    ) -> None:
        """Run every row; slot 0 is the result, `path` what was on the way."""
        batch, course, slots, model_input = self.batch, self.course, self.slots, self.model_input
        seeds, known, mask = batch.seeds, batch.known, batch.mask
        take = step if self.guide is None else self.guide.step
        total = len(course.rows)
        step(
            course.start, self.tables.start_rows, slots, None,
            seeds=seeds, known=known if batch.x0 is None else batch.x0, model_input=model_input,
        )  # fmt: skip
        self._keep(0)
        bar = _bar(sum(n > 0 for n in course.outputs)) if progress else None
        for turn in range(total):
            output = None
            if course.outputs[turn]:
                x, arguments = self.calls[course.outputs[turn]]
                output = checked_output(model(x, self.model_times[turn], **arguments), x)
            take(
                course.plan, self.tables.rows[turn], slots, output,
                seeds=seeds, known=known, mask=mask, model_input=model_input,
            )  # fmt: skip
            self._keep(turn + 1)
            if self.shift is not None and turn + 1 < total:
                self.shift.follow(slots[0], self.tables.times[turn + 1])
            if bar is not None and output is not None:
                bar.update()
            if callback is not None:
                rows = course.rows[turn, : batch.shape[0]]
                callback(Progress(turn, total, slots[0], output, rows))
        if bar is not None:
            bar.close()

    def restart(self) -> None:
        """Clear the tensors of an earlier run: a row may read a slot that none has written."""
        for slot in self.slots[1:]:
            slot.zero_()
        if self.guide is not None:
            self.guide.restart()

    def _keep(self, number: int) -> None:
        if self.path is not None:
            self.batch.arrays.copy(self.path[number], self.slots[0])


class _Shift:
    """Writes the times of a model call that fit the samples before it."""

    def __init__(self, batch: Batch) -> None:
        assert batch.time_shift is not None
        self._settings = batch.time_shift
        arrays, (self._count, *rest) = batch.arrays, batch.shape
        self._schedule = [
            arrays.convert(getattr(batch.time_shift, name), name=f"time_shift.{name}")
            for name in ("times", "variances")
        ]
        needed = _core.solver_gram_workspace_bytes(self._count, math.prod(rest), 1) // 8
        self._gram = arrays.zeros((self._count, 2, 2), "float64")
        self._workspace = arrays.zeros((needed,), "int64")

    def follow(self, x: Any, times: Any) -> None:
        """Replace times [n * B], which are the nominal ones, n times the same."""
        if not self._count:
            return
        gram([x], out=self._gram, workspace=self._workspace)
        shifted = shifted_times(
            self._gram, times[: self._count], *self._schedule,
            window=self._settings.window, cutoff=self._settings.cutoff,
        )  # fmt: skip
        times.reshape(-1, self._count)[...] = shifted


def first_rows(conditions: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return the conditions of the first model outputs."""
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
