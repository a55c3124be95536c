# SPDX-License-Identifier: Apache-2.0
"""Calls of the linear family on tensors between guard bands; run in a worker of `harness`."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness import Buffers, bits, isa, put

ROWS = ("bias", "residual", "norm")


def linear(
    *,
    x: np.ndarray,
    weight: np.ndarray,
    kind: str,
    dtype: str = "float32",
    stored: str = "float32",
    out_dtype: str | None = None,
    group: int = 32,
    up: np.ndarray | None = None,
    in_place: bool = False,
    parts: tuple[tuple[int, int], ...] = (),
    past: int | None = None,
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Pack `weight`, given in the type `stored`, run the layer on x and unpack.

    Tensors lie `offset` elements past their alignment, rows `gap` elements apart; bias, residual
    and norm among the options are arrays of x's `dtype`. `parts` are ranges of rows to run apart.
    Packed weights lie `past` bytes past a multiple of 64, or where the kernels allow it `offset`.
    Returns out as float32, its bits, those of each part, what unpack gives and the packed bytes.
    """
    import torch

    import fewstep

    torch.set_num_threads(1)  # for its copies: threads that wait for each other take longer
    fewstep.set_num_threads(threads)
    buffers = Buffers()
    layout = {"offset": offset, "gap": gap}

    def packed_of(name: str, values: np.ndarray) -> Any:
        given = buffers.freeze(name, buffers.place(name, values, stored, **layout))
        size = fewstep.linear.pack(given, kind=kind, group=group).nbytes
        first = past
        if first is None:  # CUDA kernels read packed weights 16 bytes at a time
            first = 0 if given.is_cuda or isa() == "cuda_on_host" else offset
        memory = buffers.place(f"packed {name}", np.full(size, 7), "uint8", offset=first)
        packed = fewstep.linear.pack(given, kind=kind, group=group, out=memory)
        assert packed.data is memory
        buffers.freeze(f"packed {name}", memory)
        return packed

    packed = packed_of("weight", weight)
    given: dict[str, Any] = dict(options)
    for name in ROWS:
        if given.get(name) is not None:
            flat = {"offset": offset, "gap": gap if given[name].ndim > 1 else 0}
            given[name] = buffers.place(name, given[name], dtype, **flat)
            if not in_place or name != "residual":
                buffers.freeze(name, given[name])
    if up is not None:
        given["up"] = packed_of("up", up)
    rows = buffers.freeze("x", buffers.place("x", x, dtype, **layout))
    shape = (len(x), len(weight))
    kind_of_out = getattr(torch, out_dtype or dtype)
    out = given["residual"] if in_place else None
    pieces = []
    for begin, end in parts:
        part = {n: v[begin:end] if n == "residual" else v for n, v in given.items()}
        piece = rows.new_empty(end - begin, len(weight), dtype=kind_of_out)
        pieces.append(bits(fewstep.linear.run(rows[begin:end], packed, out=piece, **part)))
    if out is None:
        out = buffers.place("out", np.full(shape, 7.0), out_dtype or dtype, **layout)
    assert fewstep.linear.run(rows, packed, out=out, **given) is out
    plain = buffers.place("plain", np.full(weight.shape, 7.0), plain_type(kind), **layout)
    fewstep.linear.unpack(packed, out=plain)
    buffers.verify()
    return {
        "out": out.float().cpu().numpy().copy(),
        "bits": bits(out),
        "parts": pieces,
        "weight": plain.float().cpu().numpy().copy(),
        "weight_bits": bits(plain),
        "packed": bits(packed.data),
    }


def plain_type(kind: str) -> str:
    """Return the type of unpacked weights."""
    return "float32" if kind.startswith("int") else kind


def head_top_k(
    *,
    x: np.ndarray,
    weight: np.ndarray,
    kind: str,
    k: int,
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Run ``logits.head_top_k`` between guard bands; return everything that it writes."""
    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    layout = {"offset": offset, "gap": gap}
    packed = fewstep.linear.pack(put(weight.astype(np.float32)), kind=kind)
    rows = buffers.freeze("x", buffers.place("x", x, "float32", **layout))
    outputs = {"ids": ((len(x), k), "int32"), "values": ((len(x), k), "float32")}
    outputs |= {"log_normaliser": ((len(x),), "float32"), "status": ((len(x),), "int32")}
    out = {
        name: buffers.place(name, np.full(shape, 7), dtype, offset=offset, gap=gap)
        for name, (shape, dtype) in outputs.items()
    }
    given = {n: put(v) if isinstance(v, np.ndarray) else v for n, v in options.items()}
    fewstep.logits.head_top_k(rows, packed, k, **given, **out)
    buffers.verify()
    return {name: tensor.cpu().numpy().copy() for name, tensor in out.items()}


def layer(*, dtype: str, kind: str | None, rows: int) -> dict[str, Any]:
    """Apply a layer of torch on a device that the CPU plays, and its packed weight alone."""
    import pytest
    import torch

    import fewstep.torch
    import pretend_device

    torch.manual_seed(1)
    plain = torch.nn.Linear(70, 40, dtype=getattr(torch, dtype))
    x = torch.randn(rows, 70).to(plain.weight.dtype)
    ours = fewstep.torch.Linear.from_linear(plain, kind)
    wanted = fewstep.linear.run(x, ours.weight.packed, bias=plain.bias.detach())
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        note(patch, calls, "linear_run", "linear_apply", "linear_unpack")
        with pretend_device.pretended(patch):
            ours.to(pretend_device.DEVICE)
            got = ours(x.to(pretend_device.DEVICE))
    return {"layer": bits(got.host), "run": bits(wanted), "calls": calls, "isa": isa()}


def fused(*, name: str, dtype: str) -> dict[str, Any]:
    """Run fused layers of a model on the CPU and on a device that the CPU plays."""
    import pytest
    import torch

    import pretend_device
    from fewstep.transformers import PagedCache, fuse
    from hf_models import model_of, text

    model, tokens = model_of(name, getattr(torch, dtype)), text(2, 40)
    fuse(model)
    calls: list[str] = []
    with torch.no_grad():
        here = model(tokens, cache=PagedCache(model, tokens=128)).logits
        with pytest.MonkeyPatch.context() as patch:
            note(patch, calls, "linear_run", "linear_apply", "kv_append", "tree_attention")
            with pretend_device.pretended(patch):
                model.to(pretend_device.DEVICE)
                cache = PagedCache(model, tokens=128)
                there = model(tokens.to(pretend_device.DEVICE), cache=cache).logits.host
    found = {"there": there.float().numpy(), "here": here.float().numpy()}
    return found | {"calls": calls, "isa": isa()}


def note(patch: Any, calls: list[str], *names: str) -> None:
    """Let ops write their names down when they are called."""
    from fewstep import _core

    def noted(name: str, function: Any) -> Any:
        def call(*given: Any) -> Any:
            calls.append(name)
            return function(*given)

        return call

    for name in names:
        patch.setattr(_core, name, noted(name, getattr(_core, name)))
