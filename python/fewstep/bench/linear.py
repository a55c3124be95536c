# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench linear``: linear layers of a few rows against torch and the machine's limits.

A case is a kind of weights, or ``llama_generate`` (`fewstep.bench.llama`). Limits are ``read
bandwidth``, the faster of two reductions over as many bytes as the weights have, turn by turn with
the rest, and ``gemm``, torch's product of 1024 rows. All read memory of their own: of a weight that
the call before has read, the cache still holds a part. ``attainable`` is the ratio that a product
as fast as ``gemm`` would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import fewstep

from . import llama
from .decode import table as decode_table
from .measure import Part, benchmark
from .rows import Options, Row, add_bar, check, difference, limit_row, set_threads, timed_row
from .target import Target
from .timing import Timed, Timing, interleaved

KINDS = ("bfloat16", "float32", "int8", "int4")
NAMES = (*KINDS, llama.NAME)
SHAPE = (4096, 4096)  # (O, I): the layer that has bars, at each number of rows
ROWS = (1, 2, 4, 6, 8, 16, 26, 32, 64, 128)
# The layers of Llamas of 0.1, 1 and 8 billion weights.
SHAPES = (
    (768, 768),
    (2048, 768),
    (768, 2048),
    (32000, 768),
    (2048, 2048),
    (8192, 2048),
    (2048, 8192),
    (14336, 4096),
    (4096, 14336),
)
SOME_ROWS = (1, 6, 26)
GEMM_ROWS = 1024
LIGHT = 4  # rows up to which memory is the limit
# Ratio to the faster of torch's two forms, by kind, rows and the least number of threads.
BARS = {
    ("bfloat16", 1): (2.0, 1),
    ("bfloat16", 8): (1.8, 1),
    ("bfloat16", 26): (1.25, 1),
    ("bfloat16", 64): (1.1, 1),
    ("float32", 1): (1.8, 2),
    ("float32", 8): (3.0, 2),
}
READ_BAR = 0.85  # share of the read bandwidth, bfloat16, one row
ROWS_BAR = 1 / 1.3  # one row's time over that of 16, bfloat16
INT8_BAR = 1.7  # bfloat16's time over int8's, one row
# Relative to the largest output; the quantised kinds against their own weights.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 8e-3}

Call = Callable[[], Any]


class Layer:
    """One weight, packed and plain, and inputs for it."""

    def __init__(self, kind: str, shape: tuple[int, int], device: Any = "cpu") -> None:
        self.kind, self.shape, self.device = kind, shape, device
        self.dtype = torch.float32 if kind == "float32" else torch.bfloat16
        weight = self._normals(9, *shape) * shape[1] ** -0.5
        self.weight = weight.to(self.dtype)
        self.packed = fewstep.linear.pack(self.weight, kind=kind)

    def _normals(self, seed: int, *shape: int) -> torch.Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device)

    def inputs(self, rows: int) -> torch.Tensor:
        """Return what the layer is applied to."""
        return self._normals(10, rows, self.shape[1]).to(self.dtype)

    def calls(self, rows: int) -> dict[str, Call]:
        """Return our call and the rivals', checked against each other."""
        x = self.inputs(rows)
        out = torch.empty(rows, self.shape[0], dtype=self.dtype, device=self.device)
        transposed = self.weight.clone().t()
        ours = partial(fewstep.linear.run, x, self.packed, out=out)
        exact = fewstep.linear.unpack(self.packed).float()
        error = difference(ours(), functional.linear(x.float(), exact))
        check(f"{self.kind}, {rows} rows", error, TOLERANCE[self.dtype])
        return {
            "ours": ours,
            "torch.linear": partial(functional.linear, x, self.weight),
            "torch.mm": partial(torch.mm, x, transposed),
        }

    def head(self, rows: int) -> Row:
        """Return the keys of a row that say what is measured."""
        outputs, inputs = self.shape
        head: Row = {"op": "linear.run", "case": self.kind, "M": rows, "I": inputs, "O": outputs}
        return head | {"dtype": str(self.dtype).removeprefix("torch.")}


def timed(calls: dict[str, Call]) -> dict[str, Timing]:
    """Time calls turn by turn."""
    return interleaved({name: Timed(call) for name, call in calls.items()}, budget_s=1.0)


def faster(times: dict[str, Timing], *names: str) -> Timing:
    """Return the least of some times."""
    return min((times[name] for name in names), key=lambda timing: timing.median_us)


def gemm_us_per_row(layer: Layer) -> float:
    """Return what a row costs where there are enough of them."""
    x = torch.randn(GEMM_ROWS, layer.shape[1]).to(layer.dtype)
    time = timed({"gemm": partial(functional.linear, x, layer.weight)})["gemm"]
    return time.median_us / GEMM_ROWS


def measured(layer: Layer, rows: int, threads: int, gemm: float) -> Iterator[Row]:
    """Measure a layer at a number of rows: rivals, the faster of them, and a limit."""
    calls = layer.calls(rows)
    if rows <= LIGHT:
        # In huge pages, as the weights are; and written, else every page is one page of zeros.
        count = layer.packed.nbytes // 4
        one, two = (torch.from_numpy(np.empty(count, np.float32)).fill_(1.0) for _ in range(2))
        calls |= {"sum": one.sum, "dot": partial(torch.dot, two, two)}
    times = timed(calls)
    ours, head = times["ours"], layer.head(rows) | {"threads": threads}
    for name in ("torch.linear", "torch.mm"):
        yield timed_row(head, name, ours, times[name], spread=True)
    row = timed_row(head, "torch best", ours, faster(times, "torch.linear", "torch.mm"))
    bar, least = BARS.get((layer.kind, rows), (0.0, 0))
    if bar and layer.shape == SHAPE and threads >= least:
        add_bar(row, bar)
    yield row
    light = rows <= LIGHT
    limit = faster(times, "sum", "dot").median_us if light else gemm * rows
    name = "read bandwidth" if light else "gemm"
    found = Timing(limit, limit, limit)
    row = limit_row(head, name, ours, found)
    if layer.shape == SHAPE and (layer.kind, rows) == ("bfloat16", 1):
        add_bar(row, READ_BAR, "share")
    yield row


def against_ourselves(layer: Layer, threads: int, gemm: float) -> Iterator[Row]:
    """Measure what more rows, or narrower weights, cost against one row in bfloat16."""
    if layer.kind not in ("bfloat16", "int8"):
        return
    one = Layer("bfloat16", layer.shape)
    rows, bar = (16, ROWS_BAR) if layer.kind == "bfloat16" else (1, INT8_BAR)
    calls = {"ours": layer.calls(rows)["ours"], "one": one.calls(1)["ours"]}
    times = timed(calls | {"other": one.weight.float().sum})  # takes the weights from the cache
    head, rival = layer.head(rows) | {"threads": threads}, "fewstep, bfloat16, M=1"
    row = timed_row(head, rival, times["ours"], times["one"])
    add_bar(row, bar)
    if layer.kind == "bfloat16":
        row["attainable"] = round(times["one"].median_us / (gemm * rows), 3)
    yield row


def rows_of(kind: str, options: Options) -> Iterator[Row]:
    """Measure a kind with each number of threads."""
    for threads in options.threads:
        set_threads(threads)
        for shape in (SHAPE, *(() if options.quick else SHAPES)):
            layer = Layer(kind, shape)
            gemm = gemm_us_per_row(layer)
            for rows in ROWS if shape == SHAPE else SOME_ROWS:
                if not options.quick or rows == 1 or (kind, rows) in BARS:
                    yield from measured(layer, rows, threads, gemm)
            if shape == SHAPE:
                yield from against_ourselves(layer, threads, gemm)


def parts_of(options: Options, target: Target) -> list[tuple[str, Part]]:
    """List what was asked for, on the CPU; `fewstep.bench.linear_device` is of a GPU.

    ``quick`` measures what has a bar.
    """
    parts: list[tuple[str, Part]] = [(kind, partial(rows_of, kind, options)) for kind in KINDS]
    parts.append((llama.NAME, partial(llama.rows, options)))
    return [part for part in parts if options.wants(part[0])]


run = benchmark(parts_of)
table = partial(decode_table, title="fewstep bench linear")
