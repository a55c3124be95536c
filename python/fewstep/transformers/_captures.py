# SPDX-License-Identifier: Apache-2.0
"""What was captured as CUDA graphs of a model, by the shapes of what it is given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from .._graph import CudaRecording, Recording
from .._torch_weight import address

Entry = TypeVar("Entry")


class Captures(Generic[Entry]):
    """Captured work of a model; the least recently used goes, and all where weights have moved."""

    CAPACITY: int

    def __init__(self, model: Any, record: Any = CudaRecording) -> None:
        self.record: Callable[..., Recording] = record
        self.refused: RuntimeError | None = None  # why nothing more is captured
        self._model = model
        self._weights = self._held()
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def _held(self) -> list[tuple[Any, int]]:
        return [(weight, address(weight)) for weight in self._model.parameters()]

    def find(self, key: Hashable) -> Entry | None:
        """Return what was captured and still holds."""
        if any(address(weight) != before for weight, before in self._weights):
            self._weights = self._held()
            self._entries.clear()
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def capture(self, key: Hashable, make: Callable[[], Entry]) -> Entry | None:
        """Capture, and keep what was; None where it cannot be captured."""
        try:
            entry = self._entries[key] = make()
        except RuntimeError as error:
            self.refused = error
            return None
        while len(self._entries) > self.CAPACITY:
            self._entries.popitem(last=False)
        return entry
