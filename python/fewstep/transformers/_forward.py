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
from .._transfer import Parcel
from ._cache import PagedRows
from ._captures import Captures
from ._checks import FUNCTION
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
        index = index_of(ids, wanted)
        if self.device.type == "cpu":
            return self.compute(torch.from_numpy(ids), torch.from_numpy(index), rows, hidden)
        return self.send(Parcel((ids, index, *rows.fields)), rows, hidden)

    def send(self, parcel: Parcel, rows: Rows, hidden: bool) -> Any:
        """Run what a parcel of tokens, wanted rows and the fields of `rows` says."""
        ids, index, *fields = parcel.unpacked(parcel.packed.to(self.device))
        return self.compute(ids, index, rows.placed(fields), hidden)

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


def index_of(ids: NDArray[np.int64], wanted: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the rows whose logits are wanted: all where nobody says which."""
    return np.arange(len(ids)) if wanted is None else wanted


class _Pass:
    """A captured forward pass and the memory that it reads and writes."""

    def __init__(self, forward: Forward, parcel: Parcel, rows: Rows, hidden: bool, record: Any):
        self._there = parcel.packed.to(forward.device, copy=True)
        ids, index, *fields = parcel.unpacked(self._there)
        placed = rows.placed(fields)
        self.result: Any = None

        def work() -> None:
            self.result = forward.compute(ids, index, placed, hidden)

        self._recording: Recording = record(Arrays(torch, forward.device), work, FUNCTION)
        self._scratch = forward.cache.store.scratch  # which a longer one may replace

    def replay(self, parcel: Parcel) -> Any:
        """Run what a parcel of the same layout says."""

        def fill() -> None:
            self._there.copy_(parcel.packed)

        outputs = self.result if isinstance(self.result, tuple) else (self.result,)
        self._recording.replay([self._there, self._scratch, *outputs], fill, lambda: None)
        return self.result


class Graphs(Captures[_Pass]):
    """Forward passes as graphs: those of trees that come again.

    What is run a first few times, and what cannot be captured, runs as it is. Page tables are as
    wide as the next power of two, so that growing texts have few shapes.
    """

    CAPACITY = 16
    SEEN = 3  # calls of a shape before it is captured

    def __init__(self, forward: Forward, record: Any = CudaRecording) -> None:
        super().__init__(forward.model, record)
        self._forward = forward
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    @torch.no_grad()
    def run(
        self, ids: NDArray[np.int64], rows: Rows, wanted: NDArray[np.int64] | None, hidden: bool
    ) -> Any:
        """Run rows of tokens as `Forward.run` does."""
        forward = self._forward
        if self.refused is not None:
            return forward.run(ids, rows, wanted, hidden)
        rows = rows.widened(forward.cache.store.shape[1])
        parcel = Parcel((ids, index_of(ids, wanted), *rows.fields))
        key = parcel.layout, tuple(rows.requests.options), hidden
        entry = self.find(key)
        if entry is None and self._is_due(key):
            entry = self.capture(key, lambda: _Pass(forward, parcel, rows, hidden, self.record))
        return forward.send(parcel, rows, hidden) if entry is None else entry.replay(parcel)

    def _is_due(self, key: Hashable) -> bool:
        """Count a call of a shape, and tell whether it came often enough to be captured."""
        count = self._seen.pop(key, 0) + 1
        self._seen[key] = count
        if len(self._seen) > 4 * self.CAPACITY:
            self._seen.popitem(last=False)
        return count > self.SEEN
