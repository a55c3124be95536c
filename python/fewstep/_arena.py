# SPDX-License-Identifier: Apache-2.0
"""Memory for packed weights: aligned, and in huge pages however small each weight is."""

from __future__ import annotations

import threading
import weakref

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_LARGE = 4 << 20  # from which on NumPy asks for huge pages (2 MiB each) itself
_SMALL = 256 << 10  # up to which a weight is not read from memory again and again
_BLOCK = 32 << 20  # what weights between the two share


class Arena:
    """Cuts weights out of blocks that are large enough for huge pages.

    A block lives as long as one of its pieces: none is kept for later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._block: weakref.ref[NDArray[np.uint8]] | None = None
        self._used = 0

    def take(self, count: int) -> NDArray[np.uint8]:
        """Return `count` uninitialised bytes that begin a cache line."""
        if not _SMALL <= count < _LARGE:
            return _cut(np.empty(count + _ALIGNMENT, np.uint8), 0, count)
        with self._lock:
            block = self._block() if self._block is not None else None
            if block is None or self._used + count + _ALIGNMENT > _BLOCK:
                block = np.empty(_BLOCK, np.uint8)
                self._block, self._used = weakref.ref(block), 0
            piece = _cut(block, self._used, count)
            self._used += count + _ALIGNMENT
            return piece


def _cut(block: NDArray[np.uint8], first: int, count: int) -> NDArray[np.uint8]:
    begin = first + -(block.__array_interface__["data"][0] + first) % _ALIGNMENT
    return block[begin : begin + count]


ARENA = Arena()
