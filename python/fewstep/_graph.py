# SPDX-License-Identifier: Apache-2.0
"""Whole trajectories as CUDA graphs: captured once, replayed with other seeds and conditions.

A graph reads and writes fixed memory. So a captured trajectory owns a copy of every array that a
call brings; later calls fill these copies, replay, and take the result out.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from types import MethodType
from typing import Any, Protocol

from ._arrays import Arrays, is_array, is_torch
from ._batch import Batch
from ._course import Course
from ._run import Model, Run
from ._stream import use_stream

Work = Callable[[], None]


class Recording(Protocol):
    """Work that can be run again without the Python code that made it."""

    def replay(self, memory: Sequence[Any], fill: Work, drain: Work) -> None:
        """Run `fill`, the work, then `drain`, after every earlier replay.

        `memory` is what the three read and write and the recording's owner holds.
        """


class CudaRecording:
    """Work captured into a `torch.cuda.CUDAGraph`."""

    # One capture at a time: another thread's synchronisation would break one that is under way.
    _capture_lock = threading.Lock()

    def __init__(self, arrays: Arrays, work: Work, function: str = "Sampler") -> None:
        torch = self._torch = arrays.torch
        self._device = arrays.device
        self._graph = torch.cuda.CUDAGraph()
        self._done: Any = None
        self._streams: set[int] = set()
        with self._capture_lock, torch.cuda.device(self._device):
            caller = torch.cuda.current_stream()
            stream = torch.cuda.Stream()
            stream.wait_stream(caller)
            try:
                # The outer context restores the stream even where a capture that failed does not.
                with torch.cuda.stream(stream), use_stream(stream), _uncached_autocast(torch):
                    work()  # libraries set themselves up and plans go to the device on first use
                    self._capture(stream, work, function)
            finally:
                caller.wait_stream(stream)

    def _capture(self, stream: Any, work: Work, function: str) -> None:
        # Other threads may go on allocating: this one alone must do nothing that cannot be
        # captured.
        capture = self._torch.cuda.graph(
            self._graph, stream=stream, capture_error_mode="thread_local"
        )
        try:
            with capture:
                work()
        except RuntimeError as error:
            raise RuntimeError(
                f"{function}: 'model' must be capturable with graph=True (no synchronisation with "
                f"the host, no copy from its memory), got {error}"
            ) from error

    @classmethod
    def ambient(cls, arrays: Arrays) -> Hashable:
        """Return what holds for a capture besides its arguments; refuse what has no graphs."""
        if not arrays.on_cuda:
            where = "numpy arrays" if arrays.torch is None else f"tensors on {arrays.device}"
            raise ValueError(
                "Sampler: 'graph' must be False without torch tensors on a CUDA device, "
                f"got True with {where}"
            )
        if arrays.capturing:
            raise ValueError(
                "Sampler: 'graph' must be False while a CUDA graph is captured, got True"
            )
        torch = arrays.torch
        return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None

    def replay(self, memory: Sequence[Any], fill: Work, drain: Work) -> None:
        """Run on the current stream, in order with replays on other streams."""
        stream = self._torch.cuda.current_stream(self._device)
        if stream.cuda_stream not in self._streams:  # so that torch knows when to reuse the memory
            self._streams.add(stream.cuda_stream)
            for tensor in memory:
                tensor.record_stream(stream)
        if self._done is not None:
            stream.wait_event(self._done)
        fill()
        self._graph.replay()
        drain()
        self._done = self._torch.cuda.Event()
        self._done.record(stream)


def _uncached_autocast(torch: Any) -> AbstractContextManager[Any]:
    """Return the autocast in force without its cache, whose tensors would not outlive it."""
    if not torch.is_autocast_enabled("cuda"):
        return nullcontext()
    dtype = torch.get_autocast_dtype("cuda")
    context: AbstractContextManager[Any] = torch.autocast("cuda", dtype, cache_enabled=False)
    return context


class Captured:
    """A trajectory with memory of its own, and its recording."""

    def __init__(
        self,
        record: Callable[[Arrays, Work], Recording],
        model: Model,
        inputs: dict[str, Any],
        make: Callable[[dict[str, Any]], Run],
        alive: Callable[[], object],
    ) -> None:
        self._lock = threading.Lock()  # of the memory
        self._alive = alive
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        run = self._run = make(self._inputs)

        def work() -> None:
            run.restart()
            run.drive(model)

        self._recording = record(run.batch.arrays, work)

    @property
    def alive(self) -> bool:
        """Whether the model still exists."""
        return self._alive() is not None

    def replay(self, inputs: dict[str, Any], x: Any, path: Any) -> None:
        """Run with the arrays of a call; writes the samples and, if it is kept, the trajectory."""
        run = self._run

        def fill() -> None:
            for name, target in self._inputs.items():
                target.copy_(inputs[name])

        def drain() -> None:
            x.copy_(run.slots[0])
            if path is not None:
                path.copy_(run.path)

        memory = [*self._inputs.values(), *run.slots, run.model_input]
        memory += [] if run.path is None else [run.path]
        with self._lock:
            self._recording.replay(memory, fill, drain)


class Graphs:
    """The captured trajectories of one sampler, least recently used out."""

    CAPACITY = 8

    def __init__(self, recording: Any = CudaRecording) -> None:
        self._recording = recording
        self._lock = threading.RLock()
        self._entries: OrderedDict[Hashable, Captured] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all of them; their memory goes back to torch."""
        with self._lock:
            self._entries.clear()

    def run(
        self,
        batch: Batch,
        course: Course,
        packed: Any,
        conditions: dict[str, Any],
        dtype: Any,
        keep: bool,
        model: Model,
    ) -> tuple[Any, Any]:
        """Capture on first use; replay; returns the samples and the trajectory or None."""
        arrays = batch.arrays
        ambient = self._recording.ambient(arrays)
        inputs = _inputs(batch, packed, conditions)
        key = (
            ambient, arrays.device, batch.shape, arrays.dtype(dtype), keep, course.structure,
            tuple((name, *_layout(value)) for name, value in inputs.items()),
            tuple((name, _constant(name, value)) for name, value in conditions.items()
                  if f"cond {name}" not in inputs),
            _identity(model), _parameters(arrays.torch, model),
        )  # fmt: skip

        def make(static: dict[str, Any]) -> Run:
            own: dict[str, Any] = {n: static.get(n) for n in ("seeds", "x0", "known", "mask")}
            held = {k: static.get(f"cond {k}", v) for k, v in conditions.items()}
            return Run(replace(batch, **own), course, static["table"], held, dtype, keep)

        x = arrays.zeros(batch.shape, "float32")
        path = arrays.zeros((len(course.rows) + 1, *batch.shape), "float32") if keep else None
        with arrays.without_gradients():
            self._find(key, model, inputs, make).replay(inputs, x, path)
        return x, path

    def _find(
        self,
        key: Hashable,
        model: Model,
        inputs: dict[str, Any],
        make: Callable[[dict[str, Any]], Run],
    ) -> Captured:
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None or not entry.alive:
                alive = _reference(model, weakref.ref(self), key)
                entry = Captured(self._recording, model, inputs, make, alive)
            self._entries[key] = entry
            while len(self._entries) > self.CAPACITY:
                self._entries.popitem(last=False)
            return entry


def _inputs(batch: Batch, packed: Any, conditions: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arrays by name: all that a graph must be given anew."""
    arrays = {"seeds": batch.seeds, "x0": batch.x0, "known": batch.known, "mask": batch.mask}
    arrays |= {f"cond {k}": v for k, v in conditions.items() if _is_input(v, batch.arrays)}
    return {k: v for k, v in arrays.items() if v is not None} | {"table": packed}


def _is_input(value: Any, arrays: Arrays) -> bool:
    # A scalar in host memory becomes a number in the graph, not memory that it reads.
    return is_torch(value) and value.device == arrays.device and (value.ndim > 0 or arrays.on_cuda)


def _layout(value: Any) -> tuple[object, ...]:
    return tuple(value.shape), tuple(value.stride()), value.dtype


def _constant(name: str, value: Any) -> Hashable:
    """Return what stands for a condition that is part of the graph itself."""
    if is_array(value):  # without dimensions
        return type(value), str(value.dtype), value.item()
    try:
        hash(value)
    except TypeError:
        raise ValueError(
            f"Sampler: 'cond[{name!r}]' must be an array or hashable with graph=True, "
            f"got {type(value).__name__}"
        ) from None
    return type(value), value


def _identity(model: Model) -> Hashable:
    if isinstance(model, MethodType):  # made anew by every look-up
        return id(model.__self__), model.__func__
    return id(model)


def _reference(model: Model, graphs: weakref.ref[Graphs], key: Hashable) -> Callable[[], object]:
    """Refer to a model weakly; when it goes, so does what was captured for it."""

    def drop(_: object) -> None:
        owner = graphs()
        if owner is not None:
            owner._entries.pop(key, None)

    if isinstance(model, MethodType):
        return weakref.WeakMethod(model, drop)
    try:
        return weakref.ref(model, drop)
    except TypeError:  # it cannot be referred to weakly, so it is kept
        return lambda: model


def _parameters(torch: Any, model: Model) -> Hashable:
    """Return where a torch module's numbers are: a graph reads them there."""
    owner = model.__self__ if isinstance(model, MethodType) else model
    if not isinstance(owner, torch.nn.Module):
        return None
    from ._torch_weight import address  # needs torch

    addresses = tuple(map(address, chain(owner.parameters(), owner.buffers())))
    return addresses, tuple(module.training for module in owner.modules())
