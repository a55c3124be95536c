# SPDX-License-Identifier: Apache-2.0
"""Where each sample of a batch goes: rows, times and model calls of a whole trajectory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._arrays import Arrays
from ._tail import tail
from .solver import Plan

#: A sample's plan, by number, and its first row.
Leg = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Course:
    """One joined table, and a row number for each sample at each turn."""

    plan: Plan
    start: Plan
    start_rows: NDArray[np.int32]  # [B], into `start`
    rows: NDArray[np.int32]  # [R, B], into `plan`; -1 when finished
    times: NDArray[np.float32]  # [R, B]
    outputs: tuple[int, ...]  # [R], how many a model call gives; 0 for no call
    uniform: bool  # every sample takes the same row at every turn: rows are numbers, not arrays

    @property
    def structure(self) -> tuple[object, ...]:
        """What a captured trajectory is made for; everything else is data that it reads."""
        return self.plan, self.start, self.outputs, self.uniform

    @cached_property
    def packed(self) -> NDArray[np.int32]:
        """Return times, rows and start rows as one array, which is one copy to a device."""
        times = np.zeros((len(self.rows), _width(self)), np.float32)
        tiled = np.tile(self.times, (1, max(self.outputs)))
        times[:, : tiled.shape[1]] = tiled
        parts = [times.view(np.int32).ravel()]
        if not self.uniform:
            parts += [self.rows.ravel(), self.start_rows]
        return np.concatenate(parts)


def _width(course: Course) -> int:
    """Return the floats from one turn's times to the next: they begin on 16 bytes."""
    floats = max(course.outputs) * len(course.start_rows)
    return -(-floats // 4) * 4


class Tables:
    """A course's numbers as arrays of the caller's kind: views, made once, of one array.

    Attributes
    ----------
    packed : array, int32
        What `Course.packed` gives, on the device.
    times : sequence of R arrays, shape (n * B,), float32
    rows : sequence of R ints, or of arrays, shape (B,), int32
    start_rows : int or array, shape (B,), int32
    """

    def __init__(self, arrays: Arrays, course: Course, count: int, packed: Any) -> None:
        turns, batch = course.rows.shape
        width = _width(course)
        times = packed[: turns * width].view(arrays.dtype("float32")).reshape(turns, width)
        self.packed = packed
        self.times: Sequence[Any] = list(times[:, : max(course.outputs) * count])
        self.rows: Sequence[Any] = range(turns)
        self.start_rows: Any = 0
        if not course.uniform:
            rows = packed[turns * width :].reshape(turns + 1, batch)
            *self.rows, self.start_rows = list(rows)


Begin = Literal["noise", "x0", "initial"]
_KNOWN, _MODEL_INPUT = 22, 23  # fewstep_operand

# Up to so many plans a batch that mixes some has the table of all: it goes to a device once.
_JOIN_ALL = 16


def _start(plan: Plan, begin: Begin) -> Plan:
    """Return the row that places slot 0 where a plan begins."""
    if begin != "initial":
        return plan.start(0, known=begin == "x0")
    row = plan.start(0).rows[0]
    # The given sample itself, whatever its distribution.
    scales = tuple((row.next_scale if code == _MODEL_INPUT else 1.0,) for code in row.output)
    none = ((),) * row.n_outputs
    drawn = {"noise_stream": (), "noise_step": (), "noise": none, "known_noise": none}
    return Plan.from_rows([row.replace(input=(_KNOWN,), a=scales, **drawn)])


@lru_cache(maxsize=64)
def _joined(
    plans: tuple[Plan, ...], kinds: tuple[Leg, ...], begin: Begin
) -> tuple[Plan, Plan, tuple[int, ...]]:
    """Return one table for all kinds, that of their first rows, and the length of each kind."""
    tails = [tail(plans[index], first) for index, first in kinds]
    starts = [_start(t, begin) for t in tails]
    if len(kinds) == 1:
        return tails[0], starts[0], (len(tails[0]),)
    return Plan.concat(tails), Plan.concat(starts), tuple(len(t) for t in tails)


@lru_cache(maxsize=64)
def course_of(plans: tuple[Plan, ...], legs: tuple[Leg, ...], begin: Begin, mixed: bool) -> Course:
    """Join the plans that the samples follow.

    Parameters
    ----------
    plans : tuple of Plan
    legs : tuple of B (plan, first row)
    begin : {"noise", "x0", "initial"}
        Samples start from noise alone, from a noised image, or from what they are given.
    mixed : bool
        Give each sample a row of its own even if all follow the same plan: the table is then that
        of batches which mix plans.

    Returns
    -------
    Course
    """
    used = set(legs)
    uniform = len(used) == 1 and not mixed
    if not uniform and len(plans) <= _JOIN_ALL and all(first == 0 for _, first in legs):
        used = {(number, 0) for number in range(len(plans))}
    kinds = {leg: number for number, leg in enumerate(sorted(used))}
    joined, start, kind_lengths = _joined(plans, tuple(kinds), begin)
    offsets = np.concatenate([[0], np.cumsum(kind_lengths)])
    kind = np.array([kinds[leg] for leg in legs], np.int32)  # [B]
    lengths = np.array(kind_lengths, np.int32)[kind]
    turn = np.arange(lengths.max(initial=0), dtype=np.int32)[:, None]
    rows = np.where(turn < lengths, offsets[kind].astype(np.int32) + turn, np.int32(-1))
    # A finished sample keeps the last time it was called with: models take its logarithm.
    last = np.minimum(turn, lengths - 1) + offsets[kind]
    outputs = np.array([row.n_guidance if row.evaluates else 0 for row in joined.rows] + [0])
    return Course(
        plan=joined,
        start=start,
        start_rows=kind,
        rows=np.ascontiguousarray(rows, np.int32),
        times=np.asarray(joined.times, np.float32)[last],
        outputs=tuple(int(outputs[r].max()) for r in rows),  # -1 finds the 0 at the end
        uniform=uniform,
    )


@dataclass(frozen=True)
class _Uploaded:
    course: Course
    packed: Any
    ready: Any  # torch.cuda.Event after the copy


class TableCache:
    """Courses whose tables are on a CUDA device already, least recently used out.

    A later call copies nothing to the device, so it can be part of a CUDA graph that the caller
    captures. What such a call used stays for good: the graph will read it again.
    """

    CAPACITY = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploaded: OrderedDict[object, _Uploaded] = OrderedDict()
        self._captured: dict[object, _Uploaded] = {}

    def get(
        self,
        arrays: Arrays,
        plans: tuple[Plan, ...],
        legs: tuple[Leg, ...],
        begin: Begin,
        mixed: bool,
    ) -> tuple[Course, Any]:
        """Return the course and its packed table on the device, the caller's to write to."""
        if not arrays.on_cuda:
            course = course_of(plans, legs, begin, mixed)
            return course, arrays.convert(course.packed.copy())
        key = (arrays.device, plans, legs, begin, mixed)
        with self._lock:
            entry = self._captured.get(key) or self._uploaded.get(key)
            capturing = arrays.capturing
            if entry is None and capturing:
                raise ValueError(
                    f"Sampler: 'plan' must be on {arrays.device} before a CUDA graph is captured, "
                    "got no call like this one before"
                )
            if entry is None:
                entry = self._upload(arrays, course_of(plans, legs, begin, mixed))
            if capturing:
                self._captured[key] = entry
                self._uploaded.pop(key, None)
            elif key not in self._captured:
                self._uploaded[key] = entry
                self._uploaded.move_to_end(key)
                if len(self._uploaded) > self.CAPACITY:
                    self._uploaded.popitem(last=False)
        if not capturing:  # torch synchronises before it begins a capture
            stream = arrays.torch.cuda.current_stream(arrays.device)
            stream.wait_event(entry.ready)
            entry.packed.record_stream(stream)
        return entry.course, entry.packed.clone()

    @staticmethod
    def _upload(arrays: Arrays, course: Course) -> _Uploaded:
        if not course.uniform:
            course.plan.prepare(arrays.device)
            course.start.prepare(arrays.device)
        packed = arrays.convert(course.packed, name="plan")
        ready = arrays.torch.cuda.Event()
        ready.record(arrays.torch.cuda.current_stream(arrays.device))
        return _Uploaded(course, packed, ready)
