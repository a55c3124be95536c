# SPDX-License-Identifier: Apache-2.0
"""What a CUDA graph does, on the CPU: operations are recorded once and run again on their memory.

No Python code of the recorded work runs again, so a number that the host put in while recording
stays as it was, and memory that nobody refills keeps what the last replay left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fewstep._guide
import fewstep._run
from fewstep._arrays import Arrays

# Ops that torch does not see, where the sampler's loop calls them.
OPS: tuple[tuple[Any, str], ...] = (
    (fewstep._run, "step"),
    (fewstep._guide, "step"),
    (fewstep._guide, "gram"),
    (fewstep._guide, "quantile"),
)


def _place(tensor: Any) -> int:
    """Return where the numbers of a tensor lie, of one on a device that the CPU plays too."""
    return getattr(tensor, "host", tensor).data_ptr()  # type: ignore[no-any-return]


class Operations(TorchDispatchMode):
    """Lists torch's operations; inside `paused` none is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.pauses = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if not self.pauses:
            self.calls.append((func, args, kwargs or {}, out))
        return out

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (str(func) for func, *_ in self.calls)


class Recorded:
    """In place of `fewstep._graph.CudaRecording`; `made` counts them."""

    made = 0
    ops = OPS

    def __init__(self, arrays: Arrays, work: Callable[[], None], function: str = "") -> None:
        type(self).made += 1
        work()
        operations = Operations()

        def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                operations.calls.append((function, args, kwargs, None))
                return function(*args, **kwargs)

            return call

        kept = [(module, name, getattr(module, name)) for module, name in self.ops]
        for module, name, function in kept:
            setattr(module, name, recorded(function))
        try:
            with operations:
                work()
        finally:
            for module, name, function in kept:
                setattr(module, name, function)
        self.calls = operations.calls

    @classmethod
    def ambient(cls, arrays: Arrays) -> None:
        assert arrays.torch is not None

    def replay(self, memory: Any, fill: Callable[[], None], drain: Callable[[], None]) -> None:
        assert all(isinstance(tensor, torch.Tensor) for tensor in memory)
        fill()
        for func, args, kwargs, out in self.calls:
            result = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(result), strict=False):
                # Views and operations in place give the same memory again.
                if isinstance(old, torch.Tensor) and _place(old) != _place(new):
                    old.copy_(new)
        drain()
