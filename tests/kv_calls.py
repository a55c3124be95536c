# SPDX-License-Identifier: Apache-2.0
"""Calls of the KV cache's ops on tensors between guard bands; run in a worker of `harness`."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness import Buffers, bits

SIGNED = {1: np.int8, 2: np.int16, 4: np.int32}


class Caches:
    """One layer's caches in memory as `layout` says, given and read as bits [P, T, G, D]."""

    def __init__(
        self, buffers: Buffers, cache: dict[str, np.ndarray], dtype: str, layout: str, **place: Any
    ) -> None:
        import torch

        k, v = (cache[name].view(SIGNED[cache[name].itemsize]) for name in ("k", "v"))
        kind = getattr(torch, dtype)

        def put(name: str, values: np.ndarray, kind: Any = kind) -> Any:
            made = buffers.place(name, values, values.dtype.name, **place)
            return made.view(kind)

        if layout == "pages":
            both = put("caches", np.stack([k, v], 1))
            self.views = {"k": both[:, 0], "v": both[:, 1]}
        elif layout == "joined":
            both = put("caches", np.stack([k, v], 2))
            self.views = {"k": both[:, :, 0], "v": both[:, :, 1]}
        elif layout == "heads":
            self.views = {
                name: put(name, values.transpose(0, 2, 1, 3)).transpose(1, 2)
                for name, values in (("k", k), ("v", v))
            }
        else:
            self.views = {"k": put("k", k), "v": put("v", v)}
        for name in ("k_scale", "v_scale"):
            if name in cache:
                self.views[name] = put(name, cache[name].view(np.int32), torch.float32)

    def given(self) -> dict[str, Any]:
        """Return the tensors by parameter."""
        names = {"k": "k_cache", "v": "v_cache"}
        return {names.get(name, name): view for name, view in self.views.items()}

    def read(self) -> dict[str, np.ndarray]:
        """Return the bits; scales as float32."""
        read = {name: bits(view) for name, view in self.views.items()}
        unsigned = {2: np.uint16, 4: np.uint32}
        return {
            name: values.view(np.float32)
            if name.endswith("scale")
            else values.view(unsigned.get(values.itemsize, np.int8))
            for name, values in read.items()
        }


def _ints(buffers: Buffers, values: dict[str, np.ndarray | None], **place: Any) -> dict[str, Any]:
    return {
        name: buffers.freeze(name, buffers.place(name, v, str(v.dtype), **place))
        for name, v in values.items()
        if v is not None
    }


def append(
    *,
    rows: dict[str, np.ndarray],
    cache: dict[str, np.ndarray],
    dtypes: tuple[str, str],
    layout: str = "tokens",
    rope: str | None = None,
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **arrays: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Append rows, given as bits; return the caches' bits. The rows are views of [N, 2 G, D]."""
    import torch

    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    place = {"offset": offset, "gap": gap}
    caches = Caches(buffers, cache, dtypes[1], layout, **place)
    joined = np.concatenate([rows["k"], rows["v"]], 1)
    joined = joined.view(SIGNED[joined.itemsize])
    fused = buffers.freeze("rows", buffers.place("rows", joined, joined.dtype.name, **place))
    fused = fused.view(getattr(torch, dtypes[0]))
    heads = rows["k"].shape[1]
    others = _ints(buffers, arrays, gap=gap)
    fewstep.kv.append(fused[:, :heads], fused[:, heads:], rope=rope, **caches.given(), **others)
    buffers.verify()
    return caches.read()


def layers_of(
    *,
    op: str,
    layers: list[dict[str, np.ndarray]],
    dtype: str,
    layout: str = "tokens",
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **arrays: np.ndarray | None,
) -> list[dict[str, np.ndarray]]:
    """Run gather or copy_pages in all layers; return each one's bits."""
    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    made = [Caches(buffers, c, dtype, layout, offset=offset, gap=gap) for c in layers]
    given = {n: [m.given()[n] for m in made] for n in made[0].given()}
    getattr(fewstep.kv, op)(**given, **_ints(buffers, arrays, gap=gap))
    buffers.verify()
    return [m.read() for m in made]


def transfer(
    *,
    layers: list[dict[str, np.ndarray]],
    dtype: str,
    layout: str = "tokens",
    page_table: np.ndarray | None = None,
    data: np.ndarray | None = None,
    offset: int = 0,
    message_offset: int = 0,
    gap: int = 0,
    **options: int,
) -> Any:
    """Export, or import `data`; return the message, or the tokens and each layer's bits."""
    import fewstep

    buffers = Buffers()
    made = [Caches(buffers, c, dtype, layout, offset=offset, gap=gap) for c in layers]
    given = {n: [m.given()[n] for m in made] for n in made[0].given()}
    others = _ints(buffers, {"page_table": page_table}, gap=gap)
    if data is None:
        size = fewstep.kv.export_tokens(**given, **others, **options).numel()
        out = buffers.place("out", np.full(size, 7, np.uint8), "uint8", offset=message_offset)
        assert fewstep.kv.export_tokens(**given, **others, **options, out=out) is out
        buffers.verify()
        return out.cpu().numpy().copy()
    message = buffers.freeze("data", buffers.place("data", data, "uint8", offset=message_offset))
    tokens = fewstep.kv.import_tokens(message, **given, **others, **options)
    buffers.verify()
    return tokens, [m.read() for m in made]


def commit(
    *,
    layers: list[dict[str, np.ndarray]],
    dtype: str,
    layout: str = "tokens",
    stacked: bool = False,
    first: int = 0,
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **arrays: np.ndarray | None,
) -> dict[str, Any]:
    """Commit in all layers; return each one's bits and the lengths."""
    import torch

    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    place = {"offset": offset, "gap": gap}
    made = [Caches(buffers, layer, dtype, layout, **place) for layer in layers]
    if stacked:
        given = {n: torch.stack([m.given()[n] for m in made]) for n in made[0].given()}
    else:
        given = {n: [m.given()[n] for m in made] for n in made[0].given()}
    others = _ints(buffers, arrays, gap=gap)
    base = arrays["base"]
    assert base is not None
    length = buffers.place("length", np.full(len(base), 7, np.int32), "int32", gap=gap)
    fewstep.kv.commit(**given, **others, first=first, length=length)
    buffers.verify()
    if stacked:
        for i, m in enumerate(made):
            names = {"k_cache": "k", "v_cache": "v"}
            m.views = {names.get(n, n): tensor[i] for n, tensor in given.items()}
    return {"layers": [m.read() for m in made], "length": length.cpu().numpy().copy()}
