# SPDX-License-Identifier: Apache-2.0
"""Arrays of the caller's kind, numpy or torch, for code that drives a model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np


def is_torch(value: object) -> bool:
    """Tell whether `value` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: object) -> bool:
    """Tell whether `value` is a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or is_torch(value)


def shape_of(function: str, name: str, value: Any) -> tuple[int, ...]:
    """Return the shape of an argument, which must be an array with a batch dimension."""
    shape = getattr(value, "shape", None)
    if shape is None:
        raise TypeError(f"{function}: '{name}' must be an array, got {type(value).__name__}")
    if len(shape) == 0:
        raise ValueError(f"{function}: '{name}' must have shape [B, ...], got []")
    return tuple(int(n) for n in shape)


def empty(shape: tuple[int, ...], dtype: str, like: Any) -> Any:
    """Make an uninitialised array of the kind and on the device of `like`."""
    if is_torch(like):
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    return np.empty(shape, dtype)


def empty_like(array: Any) -> Any:
    """Make an uninitialised array of the same kind, shape and dtype, its rows contiguous."""
    if not is_torch(array):
        return np.empty(array.shape, array.dtype)
    import torch

    return torch.empty(array.shape, dtype=array.dtype, device=array.device)


@dataclass(frozen=True)
class Arrays:
    """Makes arrays of one kind: numpy when `torch` is None, else torch tensors on `device`."""

    torch: Any = None
    device: Any = None

    @classmethod
    def of(cls, device: Any, model: object, values: Iterable[object], dtype: object) -> Arrays:
        """Choose the kind: a named device, else the first tensor given, else the model's own."""
        torch = sys.modules.get("torch")
        if device is not None:
            import torch as imported

            return cls(imported, _indexed(imported, imported.device(device)))
        if torch is None:
            return cls()
        for value in values:
            if isinstance(value, torch.Tensor):
                return cls(torch, value.device)
        if isinstance(model, torch.nn.Module):
            parameter = next(model.parameters(), None)
            return cls(torch, torch.device("cpu") if parameter is None else parameter.device)
        return cls(torch, torch.device("cpu")) if isinstance(dtype, torch.dtype) else cls()

    @property
    def on_cuda(self) -> bool:
        """Whether the arrays are on a CUDA device."""
        return self.torch is not None and self.device.type == "cuda"

    @property
    def capturing(self) -> bool:
        """Whether the caller captures a CUDA graph on the current stream."""
        return self.on_cuda and bool(self.torch.cuda.is_current_stream_capturing())

    def arange(self, count: int) -> Any:
        """Return 0 .. count - 1 as int64."""
        if self.torch is not None:
            return self.torch.arange(count, dtype=self.torch.int64, device=self.device)
        return np.arange(count, dtype=np.int64)

    def dtype(self, name: object) -> Any:
        """Return the array library's dtype called `name` ("float32", ..., or a dtype itself)."""
        if self.torch is not None:
            return getattr(self.torch, name) if isinstance(name, str) else name
        return np.dtype(name)  # type: ignore[call-overload]

    def zeros(self, shape: Sequence[int], dtype: object) -> Any:
        """Return an array of zeros."""
        if self.torch is not None:
            return self.torch.zeros(tuple(shape), dtype=self.dtype(dtype), device=self.device)
        return np.zeros(shape, self.dtype(dtype))

    def convert(self, value: Any, dtype: object = None, name: str = "") -> Any:
        """Return `value` as an array of this kind; shares memory where it can.

        Copies to a CUDA device go through pinned memory, so the host does not wait for them.
        `name` is the argument's, for messages.
        """
        if self.torch is None:
            if is_torch(value):
                value = value.detach().cpu().numpy()
            return np.asarray(value, None if dtype is None else self.dtype(dtype))
        if isinstance(value, np.ndarray):
            value = self.torch.from_numpy(np.ascontiguousarray(value))
        tensor = self.torch.as_tensor(value, dtype=None if dtype is None else self.dtype(dtype))
        tensor = tensor.detach()
        if not self.on_cuda or tensor.device.type != "cpu":
            return tensor.to(self.device)
        if self.capturing:  # a replay would read host memory that may be gone
            raise ValueError(
                f"Sampler: '{name}' must be on {self.device} while a CUDA graph is captured, "
                "got an array in host memory"
            )
        # A copy even of what is pinned already: the caller may write there after the call.
        pinned = self.torch.empty_like(tensor, pin_memory=True)
        return pinned.copy_(tensor).to(self.device, non_blocking=True)

    def concatenate(self, values: Sequence[Any]) -> Any:
        """Join arrays along their first dimension."""
        return self.torch.cat(list(values)) if self.torch is not None else np.concatenate(values)

    def copy(self, target: Any, source: Any) -> None:
        """Write `source` into `target`."""
        if self.torch is not None:
            target.copy_(source)
        else:
            np.copyto(target, source)

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Return a context in which models record nothing for backward passes."""
        if self.torch is None:
            return nullcontext()
        context: AbstractContextManager[Any] = self.torch.inference_mode()
        return context


def _indexed(torch: Any, device: Any) -> Any:
    """Return the device with its number: "cuda" is the current one."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())
