# SPDX-License-Identifier: Apache-2.0
"""Forward passes of transformers over rows in pages; on CUDA devices as graphs, where asked for."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import Arrays
from .._graph import CudaRecording, Recording
from .._transfer import Parcel, uploaded
from ._cache import PagedRows
from ._rows import Rows


class Forward:
    """Runs a model of transformers, whose keys and values a paged cache has."""

    def __init__(self, model: Any, cache: PagedRows) -> None:
        self.model, self.cache = model, cache
        self.device: torch.device = model.device
        accepted = inspect.signature(type(model).forward).parameters
        self._name = "cache" if "cache" in accepted else "past_key_values"
        self._keeps = "logits_to_keep" in accepted

    def run(
        self, ids: NDArray[np.int64], rows: Rows, wanted: NDArray[np.int64] | None, hidden: bool
    ) -> Any:
        """Run rows of tokens; return the logits of those that are wanted, maybe with states."""
        index = np.arange(len(ids)) if wanted is None else wanted
        if self.device.type == "cpu":
            return self.compute(torch.from_numpy(ids), torch.from_numpy(index), rows, hidden)
        ids_, index_, *fields = uploaded(self.device, (ids, index, *rows.fields))
        return self.compute(ids_, index_, rows.placed(fields), hidden)

    @torch.no_grad()
    def compute(self, ids: torch.Tensor, index: torch.Tensor, rows: Rows, hidden: bool) -> Any:
        """Run rows whose description is where the model is."""
        self.cache.rows = rows
        given: dict[str, Any] = {self._name: self.cache}
        if self._keeps:
            given["logits_to_keep"] = index
        out = self.model(
            input_ids=ids[None],
            position_ids=rows.positions.long()[None],
            use_cache=True,
            output_hidden_states=hidden,
            **given,
        )
        logits = out.logits[0] if self._keeps else out.logits[0][index]
        return (logits, out.hidden_states[-1][0][index]) if hidden else logits


class _Entry:
    """A captured forward pass and the memory that it reads and writes."""

    def __init__(self, forward: Forward, parcel: Parcel, rows: Rows, hidden: bool, record: Any):
        self._there = parcel.packed.to(forward.device, copy=True)
        ids, index, *fields = parcel.unpacked(self._there)
        placed = rows.placed(fields)
        self.result: Any = None

        def work() -> None:
            self.result = forward.compute(ids, index, placed, hidden)

        arrays = Arrays(torch, forward.device)
        self._recording: Recording = record(arrays, work, "fewstep.transformers.PagedModel")
        self._scratch = forward.cache.store.scratch  # which a longer one may replace
        self._weights = [(p, p.data_ptr()) for p in forward.model.parameters()]

    def is_current(self) -> bool:
        """Whether the weights are where they were."""
        return all(weight.data_ptr() == before for weight, before in self._weights)

    def replay(self, parcel: Parcel) -> Any:
        """Run what a parcel of the same layout says."""

        def fill() -> None:
            self._there.copy_(parcel.packed)

        outputs = self.result if isinstance(self.result, tuple) else (self.result,)
        self._recording.replay([self._there, self._scratch, *outputs], fill, lambda: None)
        return self.result


class Graphs:
    """Forward passes as graphs: those of trees that come again, by their shapes.

    What is run a first few times, and what cannot be captured, runs as it is. Page tables are as
    wide as the next power of two, so that growing texts have few shapes.
    """

    CAPACITY = 16  # the least recently used goes
    SEEN = 3  # calls of a shape before it is captured

    def __init__(self, forward: Forward, record: Any = CudaRecording) -> None:
        self._forward, self._record = forward, record
        self._seen: OrderedDict[Hashable, int] = OrderedDict()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.refused: RuntimeError | None = None  # why nothing more is captured

    def __len__(self) -> int:
        return len(self._entries)

    @torch.no_grad()
    def run(
        self, ids: NDArray[np.int64], rows: Rows, wanted: NDArray[np.int64] | None, hidden: bool
    ) -> Any:
        """Run rows of tokens as `Forward.run` does."""
        forward = self._forward
        if self.refused is not None:
            return forward.run(ids, rows, wanted, hidden)
        rows = rows.widened(forward.cache.store.shape[1])
        index = np.arange(len(ids)) if wanted is None else wanted
        parcel = Parcel((ids, index, *rows.fields))
        key = parcel.layout, tuple(rows.requests.options), hidden
        entry = self._entries.pop(key, None)
        if entry is None or not entry.is_current():
            entry = self._captured(key, parcel, rows, hidden)
        if entry is None:
            ids_, index_, *fields = parcel.unpacked(parcel.packed.to(forward.device))
            return forward.compute(ids_, index_, rows.placed(fields), hidden)
        self._entries[key] = entry
        while len(self._entries) > self.CAPACITY:
            self._entries.popitem(last=False)
        return entry.replay(parcel)

    def _captured(self, key: Hashable, parcel: Parcel, rows: Rows, hidden: bool) -> _Entry | None:
        """Return a graph of a shape that came often enough."""
        count = self._seen.pop(key, 0) + 1
        self._seen[key] = count
        if len(self._seen) > 4 * self.CAPACITY:
            self._seen.popitem(last=False)
        if count <= self.SEEN:
            return None
        try:
            return _Entry(self._forward, parcel, rows, hidden, self._record)
        except RuntimeError as error:
            self.refused = error
            return None
