# SPDX-License-Identifier: Apache-2.0
"""Small arrays of the host on their way to a device and back, all of a call in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep._arrays import is_torch

_ALIGN = 16  # bytes


def on_device(array: Any) -> bool:
    """Tell whether an array is a tensor that the host does not read as it is."""
    return is_torch(array) and not array.is_cpu


def on_host(array: Any) -> Any:
    """Return an array, or a copy of it on the host where it lies on a device."""
    return array.cpu() if on_device(array) else array


def is_captured(array: Any) -> bool:
    """Tell whether what is done with an array becomes part of a CUDA graph, and nobody may wait."""
    if not on_device(array):
        return False
    import torch

    return bool(torch.cuda.is_current_stream_capturing())


class Parcel:
    """Arrays packed one after the other.

    Parameters
    ----------
    arrays : sequence of array or None
        NumPy's, or tensors. None and what lies on a device stay as they are.

    Attributes
    ----------
    packed : tensor, uint8
        All of the others, on the host.
    layout : tuple
        The types and shapes: parcels of one layout fit the same memory.
    """

    def __init__(self, arrays: Sequence[Any]) -> None:
        import torch

        self._kept = arrays
        given = [
            None if one is None or on_device(one) else np.ascontiguousarray(one) for one in arrays
        ]
        self._ends = [0]
        for one in given:
            size = 0 if one is None else -(-one.nbytes // _ALIGN) * _ALIGN
            self._ends.append(self._ends[-1] + size)
        self.layout = tuple(None if one is None else (one.dtype.name, one.shape) for one in given)
        packed = np.empty(self._ends[-1], np.uint8)
        for one, begin in zip(given, self._ends, strict=False):
            if one is not None:
                packed[begin : begin + one.nbytes] = one.reshape(-1).view(np.uint8)
        self.packed = torch.from_numpy(packed)

    def unpacked(self, there: Any) -> list[Any]:
        """Return the arrays as tensors in memory that `packed` is copied to."""
        import torch

        found = []
        for whole, kind, begin in zip(self._kept, self.layout, self._ends, strict=False):
            if kind is not None:
                dtype, shape = getattr(torch, kind[0]), kind[1]
                size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
                whole = there[begin : begin + size].view(dtype).view(shape)
            found.append(whole)
        return found


def uploaded(device: Any, arrays: Sequence[Any]) -> list[Any]:
    """Return arrays as tensors on a device; None and what lies there stay as they are."""
    parcel = Parcel(arrays)
    return parcel.unpacked(parcel.packed.to(device))


class Download:
    """Room on a device for what becomes arrays of the host.

    Parameters
    ----------
    device : torch.device
    arrays : sequence of array of int32, or None
        Where the numbers go in the end.
    """

    def __init__(self, device: Any, arrays: Sequence[NDArray[np.int32] | None]) -> None:
        import torch

        self._arrays = [one for one in arrays if one is not None]
        sizes = [0 if one is None else one.size for one in arrays]
        self._all = torch.empty(sum(sizes), dtype=torch.int32, device=device)
        self.tensors: list[Any] = []
        begin = 0
        for one, size in zip(arrays, sizes, strict=True):
            part = self._all[begin : begin + size]
            self.tensors.append(None if one is None else part.view(one.shape))
            begin += size

    def take(self) -> None:
        """Wait for the device and fill the arrays."""
        whole, begin = self._all.cpu().numpy(), 0
        for one in self._arrays:
            one[...] = whole[begin : begin + one.size].reshape(one.shape)
            begin += one.size
