# SPDX-License-Identifier: Apache-2.0
"""A CUDA device that the CPU plays, to torch and to fewstep's Python: where each tensor is counts.

A `Placed` tensor says that it is on ``meta`` and computes with a CPU tensor. What a device does
not do is refused: operations on tensors of both places, and ops whose arrays are not all there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fewstep._torch_weight import PackedWeight

DEVICE = torch.device("meta")
MOVES = ("aten::_to_copy", "aten::copy_")
WAITS = ("_local_scalar_dense", "nonzero", "_unique", "masked")  # in operations' names


class Placed(torch.Tensor):
    """A tensor on the device; `host` has its numbers."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> Placed:
        made: Placed = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, device=DEVICE,
        )  # fmt: skip
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def _is_packed(one: Any) -> bool:
    """Whether it is a packed weight, which computes with tensors of where its bytes are."""
    return isinstance(one, PackedWeight)


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute with the host tensors and place the results where they belong."""
    flat, _ = tree_flatten((args, kwargs))
    if any(map(_is_packed, flat)):
        return NotImplemented
    placed = [one for one in flat if isinstance(one, Placed)]
    others = [one for one in flat if isinstance(one, torch.Tensor) and not isinstance(one, Placed)]
    name = func._schema.name
    if placed and name not in MOVES and any(one.dim() for one in others):
        raise RuntimeError(f"{name}: tensors on the device and on the CPU")
    wrappers = {id(one.host): one for one in placed}
    given = dict(kwargs)
    there = bool(placed)
    if given.get("device") is not None:
        there = torch.device(given["device"]).type == "meta"
        given["device"] = torch.device("cpu")
    elif name == "aten::copy_":
        there = isinstance(args[0], Placed)
    host_args, host_kwargs = tree_map(
        lambda one: one.host if isinstance(one, Placed) else one, (args, given)
    )
    out = func(*host_args, **host_kwargs)
    if name == "aten::_local_scalar_dense" or not there:
        return out

    def wrap(one: Any) -> Any:
        if not isinstance(one, torch.Tensor):
            return one
        return wrappers[id(one)] if id(one) in wrappers else Placed(one)

    return tree_map(wrap, out)


class Device(TorchDispatchMode):
    """Catches what makes tensors on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::to":  # within what a packed weight computes, as one
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return dispatched(func, args, kwargs or {})


def placed(model: torch.nn.Module) -> torch.nn.Module:
    """Move a module's parameters and buffers to the device, in place; those that are tied stay."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and not isinstance(tensor, Placed):
                    if id(tensor) not in moved:
                        moved[id(tensor)] = _moved(tensor)
                    store[name] = moved[id(tensor)]  # type: ignore[assignment]
    return model


def _moved(tensor: torch.Tensor) -> torch.Tensor:
    own = tensor.detach()
    there = own.to(DEVICE) if _is_packed(own) else Placed(own)
    if not isinstance(tensor, torch.nn.Parameter):
        return there
    return torch.nn.Parameter(there, requires_grad=False)


def _unwrapped(name: str, function: Any) -> Any:
    """Return an op that takes arrays of one place alone."""

    def call(*args: Any, **kwargs: Any) -> Any:
        flat, spec = tree_flatten((args, kwargs))
        arrays = [one for one in flat if isinstance(one, (torch.Tensor, np.ndarray))]
        there = [isinstance(one, Placed) for one in arrays]
        if any(there) and not all(there):
            kinds = {type(one).__name__ for one in arrays}
            raise ValueError(f"{name}: arrays of several places, {sorted(kinds)}")
        host = [one.host if isinstance(one, Placed) else one for one in flat]
        args, kwargs = tree_unflatten(host, spec)
        return function(*args, **kwargs)

    return call


def crossings(calls: list[tuple[Any, ...]]) -> tuple[int, int]:
    """Return how many tensors went to the device in recorded operations, and how many came back."""
    moves = [(args[0], out) for func, args, _, out in calls if "_to_copy" in str(func)]
    ways = [(isinstance(source, Placed), isinstance(out, Placed)) for source, out in moves]
    return ways.count((False, True)), ways.count((True, False))


def waits(calls: list[tuple[Any, ...]]) -> list[str]:
    """Return which recorded operations wait for the device to know a number or a size."""
    there = [str(func) for func, args, *_ in calls if any(isinstance(a, Placed) for a in args)]
    return [name for name in there if any(word in name for word in WAITS)]


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the device be there, with kernels for all ops."""
    from fewstep import _core, _torch_linear, _torch_weight
    from fewstep.transformers import _checks
    from fewstep.transformers._cache import PagedKeys

    for name, function in vars(_core).items():
        if callable(function) and not isinstance(function, type):
            monkeypatch.setattr(_core, name, _unwrapped(name, function))
    apply = _core.linear_apply  # which makes its own output, on the host alone
    monkeypatch.setattr(
        _core, "linear_apply", lambda x, *rest: None if isinstance(x, Placed) else apply(x, *rest)
    )
    # A subclass of a tensor cannot be made of one of another subclass; nobody computes with this.
    keys_of = PagedKeys.of
    monkeypatch.setattr(
        PagedKeys, "of", lambda rows, *rest: keys_of(getattr(rows, "host", rows), *rest)
    )
    for module, name in ((_checks, "DEVICES"), (_torch_weight, "PLACES")):
        monkeypatch.setattr(module, name, ("cpu", DEVICE.type))
    stream = SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    make = torch.tensor  # which nothing catches

    def tensor(*given: Any, device: Any = None, **options: Any) -> torch.Tensor:
        made = make(*given, **options)
        return made if device is None else made.to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    # Of a subclass torch records what is computed; not of a device's tensors.
    monkeypatch.setattr(_torch_linear, "_traced", lambda _: False)
    with Device(), torch.no_grad():
        yield
