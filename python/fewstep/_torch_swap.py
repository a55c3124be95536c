# SPDX-License-Identifier: Apache-2.0
"""Exchange the linear layers of a model for packed ones, and back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch

from ._torch_linear import Linear, check_kind, plain
from ._torch_weight import PackedWeight, packed_parameter, unfit

__all__ = ["Swapped", "pack_linears"]

Skip = str | Callable[[str, torch.nn.Module], bool]


@dataclass(frozen=True)
class _Weight:
    """One weight that was packed, and what it takes to have it back."""

    holders: tuple[torch.nn.Module, ...]
    packed: PackedWeight
    original: weakref.ref[torch.Tensor]  # of the parameter, should anyone else hold it
    kept: torch.Tensor | None  # the parameter itself where packing loses bits
    hooks: tuple[Any, ...]


@dataclass
class Swapped:
    """What `pack_linears` did to a model.

    Attributes
    ----------
    swapped : tuple of str
        Names of the layers that are packed now, in the model's order.
    skipped : dict of str to str
        Why another linear layer is as it was.
    bytes_before, bytes_after : int
        Memory of the weights of `swapped`, each counted once.
    """

    swapped: tuple[str, ...]
    skipped: dict[str, str]
    bytes_before: int
    bytes_after: int
    _weights: list[_Weight] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Put the original layers back, bit for bit; calling it again does nothing.

        A weight that was not quantised comes back with what was loaded or written to it since. Of
        a quantised one this report keeps the original, for as long as the report itself is kept.
        """
        while self._weights:
            weight = self._weights.pop()
            parameter = _restored(weight)
            for holder in weight.holders:
                held: Any = holder._parameters.get("weight")
                if held is weight.packed:
                    holder._parameters["weight"] = parameter
                elif type(held) is PackedWeight:  # load_state_dict(assign=True) since
                    own = torch.nn.Parameter(held.plain(), held.requires_grad)
                    holder._parameters["weight"] = own
                if type(holder) is Linear:
                    holder.__class__ = torch.nn.Linear  # type: ignore[assignment]
            for hook in weight.hooks:
                hook.remove()

    def __str__(self) -> str:
        sizes = f"{self.bytes_before:,} bytes, now {self.bytes_after:,}"
        lines = [f"packed {len(self.swapped)} linear layers: {sizes}"]
        return "\n".join(lines + [f"left {name}: {why}" for name, why in self.skipped.items()])


def pack_linears(
    model: torch.nn.Module,
    dtype: str | None = None,
    *,
    skip: Skip | Iterable[Skip] = (),
) -> Swapped:
    """Make the linear layers of a model read packed weights, in place.

    Each `torch.nn.Linear` becomes a `Linear` and stays the same object: its name, hooks, bias,
    training flag and place in the model do not change, nor do the model's parameters' names,
    shapes and dtypes and, unless quantised, its state dict.

    Parameters
    ----------
    model : torch.nn.Module
        Or a linear layer itself.
    dtype : {"int8", "int4"}, optional
        Quantise weights; kept as they are when left out.
    skip : str, callable, or iterable of them
        Layers to leave alone: by name or pattern (``"lm_head"``, ``"*.mlp.*"``), or where
        ``skip(name, module)`` is true.

    Returns
    -------
    Swapped
        The layers that are packed, those that are not and why, bytes before and after, and
        ``undo()``.

    Raises
    ------
    ValueError
        `dtype` is another.
    TypeError
        `model` is no module, or `skip` holds something else.

    Notes
    -----
    No weight is held twice: its own memory is let go when it is packed, unless somebody else holds
    the parameter (an optimiser made before), or it is quantised and the report is kept. Tied
    weights are packed once and stay tied; an embedding that shares one looks its rows up in the
    packed weight, quantised ones if so. On a CUDA device layers are packed where the build has CUDA
    kernels. Layers of another device or dtype, subclasses of
    `torch.nn.Linear`, layers whose ``forward`` was replaced and weights that another kind of module
    shares are left. A second call finds nothing to do.

    Examples
    --------
    >>> import torch, fewstep.torch
    >>> layers = torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)
    >>> model = torch.nn.Sequential(*layers)
    >>> report = fewstep.torch.pack_linears(model, skip="2")
    >>> report.swapped, report.skipped
    (('0',), {'2': 'asked for'})
    >>> report.undo()
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            "fewstep.torch.pack_linears: 'model' must be a torch.nn.Module, "
            f"got {type(model).__name__}"
        )
    check_kind("fewstep.torch.pack_linears", dtype)
    rules = _rules(skip)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    skipped = {}
    for name, layer in layers.items():
        why = "asked for" if any(rule(name, layer) for rule in rules) else _unfit_layer(layer)
        if why:
            skipped[name] = why
    wanted = {id(m) for name, m in layers.items() if name not in skipped}
    holders = _holders(model)
    for name, layer in layers.items():
        other = None if name in skipped else _stranger(holders[id(layer.weight)], wanted)
        if other is not None:
            skipped[name] = f"shares its weight with {other}"
    report = Swapped(tuple(n for n in layers if n not in skipped), skipped, 0, 0)
    for name in report.swapped:
        if type(layers[name]) is torch.nn.Linear:  # else one that was tied has taken it along
            _swap([m for _, m in holders[id(layers[name].weight)]], dtype, report)
    return report


def _rules(skip: Skip | Iterable[Skip]) -> list[Callable[[str, torch.nn.Module], bool]]:
    alone = isinstance(skip, str) or callable(skip) or not isinstance(skip, Iterable)
    rules: Any = [skip] if alone else skip
    return [_rule(rule) for rule in rules]


def _rule(skip: Skip) -> Callable[[str, torch.nn.Module], bool]:
    """Return a function of a layer's name and module that says whether to leave it."""
    if isinstance(skip, str):
        pattern = skip
        return lambda name, _: fnmatchcase(name, pattern)
    if not callable(skip):
        raise TypeError(
            "fewstep.torch.pack_linears: 'skip' must hold names, patterns and functions, "
            f"got {type(skip).__name__}"
        )
    return skip


def _unfit_layer(layer: torch.nn.Linear) -> str | None:
    """Return why a layer cannot be exchanged."""
    if type(layer) is Linear and layer.kind:
        return f"packed already, {layer.kind}"
    if type(layer) is not torch.nn.Linear:
        return f"of type {type(layer).__name__}"
    if "forward" in vars(layer):
        return "its forward was replaced"
    if "weight" not in layer._parameters:
        return "its weight is no parameter"
    fault = unfit(layer.weight)
    return f"its weight must be {fault[0]}, got {fault[1]}" if fault else None


Holders = dict[int, list[tuple[str, torch.nn.Module]]]


def _holders(model: torch.nn.Module) -> Holders:
    """Return, for each parameter, the modules that hold it, with the names it has there."""
    found: Holders = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                full = f"{prefix}.{name}".lstrip(".")
                found.setdefault(id(parameter), []).append((full, module))
    return found


def _stranger(holders: list[tuple[str, torch.nn.Module]], wanted: set[int]) -> str | None:
    """Return the name under which a module that does not know packed weights holds one."""
    for name, module in holders:
        looks_up = isinstance(module, torch.nn.Embedding) and not (module.sparse or module.max_norm)
        if not (id(module) in wanted or looks_up):
            return name
    return None


def _swap(holders: list[torch.nn.Module], dtype: str | None, report: Swapped) -> None:
    """Pack one weight for all that hold it."""
    parameter = holders[0]._parameters["weight"]
    assert parameter is not None
    packed = packed_parameter(parameter, dtype)
    held: Any = packed
    report.bytes_before += parameter.numel() * parameter.element_size()
    report.bytes_after += packed.packed.nbytes
    hooks = []
    for holder in holders:
        if type(holder) is torch.nn.Linear:
            holder.__class__ = Linear
        else:
            register: Any = holder.register_state_dict_post_hook
            hooks.append(register(_unpacked))
        holder._parameters["weight"] = held
    kept = parameter if dtype else None
    report._weights.append(
        _Weight(tuple(holders), packed, weakref.ref(parameter), kept, tuple(hooks))
    )


def _unpacked(module: torch.nn.Module, state: Any, prefix: str, _: Any) -> None:
    """Put an embedding's weight into its state dict as an ordinary tensor."""
    key, own = f"{prefix}weight", module._parameters["weight"]
    if isinstance(own, PackedWeight) and state.get(key) is not own:  # the same with keep_vars
        state[key] = own.exported()


def _restored(weight: _Weight) -> torch.nn.Parameter:
    """Return the parameter as it was, the same object where there still is one."""
    now = weight.packed  # an ordinary one if the model is where nothing can be packed
    original: Any = weight.kept if weight.kept is not None else weight.original()
    if original is None:
        return torch.nn.Parameter(plain(now), now.requires_grad)
    if weight.kept is None:
        original.data = plain(now).detach()
    elif (original.device, original.dtype) != (now.device, now.dtype):
        original.data = original.detach().to(now.device, now.dtype)
    return original  # type: ignore[no-any-return]
