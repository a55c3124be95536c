# SPDX-License-Identifier: Apache-2.0
"""A packed weight that torch takes for the matrix it stands for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from . import _core
from .linear import Packed, aligned, pack, unpack

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
PLACES = ("cpu", "cuda") if _core.cuda_built() else ("cpu",)
_PANEL = 32  # outputs of a panel; panels lie one after the other and are read one by one
_GATHERED = 64  # panels that a look-up of rows unpacks at a time

aten = torch.ops.aten


def has_kernels(device: torch.device) -> bool:
    """Tell whether ops of this build run on a device."""
    return device.type in PLACES


@torch.library.custom_op("fewstep::linear_unpack", mutates_args=())
def _unpack(octets: torch.Tensor, shape: Sequence[int], kind: str, group: int) -> torch.Tensor:
    weight: torch.Tensor = unpack(Packed(octets, kind, group, (shape[0], shape[1])))
    return weight


@_unpack.register_fake
def _(octets: torch.Tensor, shape: Sequence[int], kind: str, group: int) -> torch.Tensor:
    dtype = torch.float32 if kind.startswith("int") else getattr(torch, kind)
    return octets.new_empty(tuple(shape), dtype=dtype)


class PackedWeight(torch.Tensor):
    """A matrix [O, I] whose memory is what `fewstep.linear.pack` made of it.

    The one tensor of its kind that a module holds: a parameter with the shape, dtype and values of
    the weight and none of its memory. Whatever torch computes with it sees the weight, unpacked for
    that one operation; whatever torch writes to it as a whole is packed again. A view of it, such
    as a row, is a copy.

    Parameters
    ----------
    packed : Packed
        Of torch, on one of `PLACES`.
    dtype : torch.dtype
        What it shows itself as; for kinds that are not quantised, the kind's.
    """

    packed: Packed
    octets: torch.Tensor  # packed.data, which torch.compile is to see
    given: list[weakref.ref[torch.Tensor]]  # by `exported`; one list for all of these octets

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, packed: Packed, dtype: torch.dtype) -> PackedWeight:
        make = torch.Tensor._make_wrapper_subclass
        self: PackedWeight = make(cls, packed.shape, dtype=dtype, device=packed.data.device)
        self.packed, self.octets, self.given = packed, packed.data, []
        return self

    @property
    def data(self) -> torch.Tensor:
        """The weight without its history; what is assigned is packed where it can be."""
        return self.detach()

    @data.setter
    def data(self, values: torch.Tensor) -> None:
        if not isinstance(values, PackedWeight) and unfit(values) is None:
            kind = self.packed.kind if self.packed.kind.startswith("int") else None
            values = packed_parameter(values, kind).detach()
        exchange(self, values)

    def plain(self) -> torch.Tensor:
        """Return the weight as an ordinary tensor of its own memory."""
        packed = self.packed
        if type(packed.data) is torch.Tensor and not torch.compiler.is_compiling():
            weight: torch.Tensor = unpack(packed)
        else:  # traced: the octets hold no numbers
            weight = _unpack(packed.data, packed.shape, packed.kind, packed.group)
        return weight.to(self.dtype)

    def exported(self) -> torch.Tensor:
        """Return `plain()`, the same tensor as before while that is alive and true.

        So tied weights share their memory in a state dict too, by which files of it know them.
        """
        weight = self.given[0]() if self.given else None
        if weight is None or weight._version:
            weight = self.plain()
            self.given[:] = [weakref.ref(weight)]
        return weight

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """Return some of its rows, shape (*index.shape, I), without unpacking the others."""
        packed, flat = self.packed, index.reshape(-1)
        if (
            index.is_cpu
            and len(flat)
            and not 0 <= int(flat.min()) <= int(flat.max()) < packed.shape[0]
        ):
            raise IndexError("index out of range in self")  # as torch says
        if not packed.kind.startswith("int"):  # steps of 1 or 2 inputs, side by side
            step = 2 if packed.kind == "bfloat16" else 1
            count, inputs = -(-packed.shape[0] // _PANEL), packed.shape[1]
            steps = packed.data.view(self.dtype).view(count, -1, _PANEL, step)
            found: torch.Tensor = steps[flat // _PANEL, :, flat % _PANEL]
            return found.flatten(1)[:, :inputs].reshape(*index.shape, inputs)
        out = torch.empty(len(flat), packed.shape[1], dtype=self.dtype, device=flat.device)
        if not flat.is_cpu:  # finding equal panels would wait for the device
            for first in range(0, len(flat), _GATHERED):
                some = slice(first, first + _GATHERED)
                own = self._panels(flat[some] // _PANEL)
                each = torch.arange(0, len(own), _PANEL, device=flat.device)
                out[some] = own[each + flat[some] % _PANEL].to(self.dtype)
            return out.view(*index.shape, packed.shape[1])
        panels, place = torch.unique(flat // _PANEL, return_inverse=True)
        for first in range(0, len(panels), _GATHERED):
            weight = self._panels(panels[first : first + _GATHERED])
            here = (place >= first) & (place < first + _GATHERED)
            local = (place[here] - first) * _PANEL + flat[here] % _PANEL
            out[here] = weight[local].to(self.dtype)
        return out.view(*index.shape, packed.shape[1])

    def _panels(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the rows of some panels, unpacked."""
        packed = self.packed
        some = packed.data.view(-(-packed.shape[0] // _PANEL), -1)[numbers]
        shape = (len(some) * _PANEL, packed.shape[1])
        weight: torch.Tensor = unpack(Packed(some.reshape(-1), packed.kind, packed.group, shape))
        return weight

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PackedWeight({self.packed.kind}, shape={tuple(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        if id(self) not in memo:
            copied = torch.nn.Parameter(self.detach().clone(), self.requires_grad)
            memo[id(self)] = copied
            if self.grad is not None:
                copied.grad = self.grad.clone()
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self.packed, self.dtype, self.requires_grad)

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        packed = self.packed
        return ["octets"], (packed.kind, packed.group, packed.shape, self.dtype)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], how: Any, *_: Any) -> PackedWeight:
        kind, group, shape, dtype = how
        return PackedWeight(Packed(inner["octets"], kind, group, shape), dtype)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = _OWN.get(func)
        if own is not None and isinstance(args[0], cls):
            return own(*args, **kwargs)
        found: dict[int, torch.Tensor] = {}

        def plain(value: Any) -> Any:
            if not isinstance(value, cls):
                return value
            return found.setdefault(id(value), value.plain())

        result = func(*tree_map(plain, args), **tree_map(plain, kwargs))
        returned: dict[int, PackedWeight] = {}
        for weight in _written(func._schema, args, kwargs):
            values = found[id(weight)]
            _store(weight, values)
            returned[id(values)] = weight
        return tree_map(lambda value: returned.get(id(value), value), result)


def packed_parameter(weight: torch.Tensor, kind: str | None) -> PackedWeight:
    """Return a parameter that stands for `weight`, of the kind or that of its dtype."""
    packed = pack(weight.detach().contiguous(), kind=kind or DTYPES[weight.dtype])
    wants_grad = weight.requires_grad and not packed.kind.startswith("int")
    made: Any = torch.nn.Parameter(PackedWeight(packed, weight.dtype), wants_grad)
    return made  # type: ignore[no-any-return]


def unfit(weight: torch.Tensor) -> tuple[str, str] | None:
    """Return what a weight that cannot be packed is to be and what it is; None if it can."""
    if not has_kernels(weight.device):
        return f"on {' or '.join(PLACES)}", str(weight.device)
    if weight.dtype not in DTYPES:
        return f"of {', '.join(DTYPES.values())}", str(weight.dtype).removeprefix("torch.")
    if weight.ndim != 2 or weight.numel() == 0:
        return "of shape [O, I]", str(list(weight.shape))
    return None


def address(tensor: torch.Tensor) -> int:
    """Return where the numbers of a tensor lie, a packed weight's too."""
    return (tensor.octets if isinstance(tensor, PackedWeight) else tensor).data_ptr()


def exchange(parameter: torch.Tensor, values: torch.Tensor) -> None:
    """Put values into a parameter that stays the same object, wherever it is held."""
    grad, parameter.grad = parameter.grad, None
    wants_grad = parameter.requires_grad
    swap: Any = torch.utils.swap_tensors
    swap(parameter, torch.nn.Parameter(values, wants_grad))
    if grad is not None:
        parameter.grad = grad.to(parameter.device, parameter.dtype)


def _written(schema: Any, args: Any, kwargs: Any) -> list[PackedWeight]:
    """Return the packed weights that an operation writes to."""
    given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
    values = [given.get(a.name) for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    return [value for value in tree_leaves(values) if isinstance(value, PackedWeight)]


def _rebuilt(packed: Packed, dtype: torch.dtype, requires_grad: bool) -> Any:
    return torch.nn.Parameter(PackedWeight(_copied(packed), dtype), requires_grad)


def _copied(packed: Packed, device: Any = None) -> Packed:
    """Return a copy in memory of the kind that `pack` takes, maybe on another device."""
    data = packed.data
    there = torch.device(data.device if device is None else device)
    if type(data) is not torch.Tensor or there.type != "cpu":
        return replace(packed, data=data.to(there, copy=True))
    return replace(packed, data=aligned(len(data), torch.empty(0)).copy_(data))


def _store(weight: PackedWeight, values: torch.Tensor) -> None:
    packed = weight.packed
    pack(values.contiguous(), kind=packed.kind, group=packed.group, out=packed.data)
    weight.given.clear()


def _detach(weight: PackedWeight) -> PackedWeight:
    alias = PackedWeight(weight.packed, weight.dtype)
    alias.given = weight.given
    return alias


def _clone(weight: PackedWeight, *, memory_format: Any = None) -> PackedWeight:
    return PackedWeight(_copied(weight.packed), weight.dtype)


def _copy(weight: PackedWeight, source: torch.Tensor, non_blocking: bool = False) -> PackedWeight:
    values = source.plain() if isinstance(source, PackedWeight) else source
    _store(weight, values.to(weight.device, weight.dtype).expand(weight.shape))
    return weight


def _converted(
    weight: PackedWeight, *, dtype: Any = None, device: Any = None, **_: Any
) -> torch.Tensor:
    dtype = dtype or weight.dtype
    if dtype not in DTYPES or not has_kernels(torch.device(device or weight.device)):
        return weight.plain().to(device, dtype)
    packed = weight.packed
    if packed.kind.startswith("int") or dtype == weight.dtype:
        return PackedWeight(_copied(packed, device), dtype)
    return PackedWeight(pack(weight.plain().to(device, dtype)), dtype)


def _embedding(weight: PackedWeight, index: torch.Tensor, *_: Any) -> torch.Tensor:
    if type(index) is not torch.Tensor:
        return torch.nn.functional.embedding(index, weight.plain())
    return weight.rows(index)


_OWN: dict[Any, Callable[..., Any]] = {
    aten.detach.default: _detach,
    aten.clone.default: _clone,
    aten.copy_.default: _copy,
    aten._to_copy.default: _converted,
    aten.embedding.default: _embedding,
}
