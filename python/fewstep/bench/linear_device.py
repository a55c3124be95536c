# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench linear --device cuda``: linear layers of a few rows against torch's on a GPU.

Calls take other weights each time, several times the device's cache together, so that none finds
its own there; inputs are what the layer before has just written. Each is a captured graph, on all
sides. Limits are a copy of the bytes that a call moves and, for 16 rows and more, a large product
in bfloat16. ``head_top_k`` is a head's best tokens against torch's product and ``topk``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional

import fewstep

from .bandwidth import copies, copy_row
from .ceilings import product, product_row
from .decode import table as decode_table
from .linear import KINDS, SHAPE, SHAPES, TOLERANCE, Layer
from .measure import Part, benchmark
from .rows import Options, Row, check, difference, timed_row
from .target import Target
from .timing import Timed, interleaved, rotated

HEAD = "head_top_k"
NAMES = (*KINDS[:1], HEAD, *KINDS[1:])
ROWS = (1, 4, 8, 16, 32, 64, 256)
SOME_ROWS = (1, 16, 64)
LEAST_INPUTS = 2048  # of the other layers
BEST = 8  # tokens of a row of hidden states
HEADS = ((128256, 2048), (32064, 2048))  # all tokens, and the most frequent quarter (FR-Spec)
MANY = 16  # rows from which products may be the limit
BUDGET_S = 0.25

Call = Callable[[], Any]
Forms = dict[str, list[Call]]  # of each set of weights


def _layers(kind: str, shape: tuple[int, int], target: Target) -> list[Layer]:
    """Return as many layers as do not fit the device's cache together."""
    one = Layer(kind, shape, target.device)
    more = range(target.sets(one.packed.nbytes) - 1)
    return [one, *(Layer(kind, shape, target.device) for _ in more)]


def _forms(layers: list[Layer], rows: int) -> Forms:
    """Return our calls and the rivals', checked against each other."""
    each = [layer.calls(rows) for layer in layers]
    return {name: [calls[name] for calls in each] for name in each[0]}


def _head_forms(layers: list[Layer], rows: int) -> Forms:
    """Return the same for a head's best tokens."""
    forms: Forms = {"ours": [], "torch": [], "fewstep, logits and top_k": []}
    for layer in layers:
        x = layer.inputs(rows)
        k = min(BEST, layer.shape[0])
        ours = partial(fewstep.logits.head_top_k, x, layer.packed, k)
        exact = functional.linear(x.float(), layer.weight.float()).topk(k).values
        error = difference(ours().values, exact)
        check(f"{HEAD}, {rows} rows", error, TOLERANCE[layer.dtype])
        forms["ours"].append(ours)
        forms["torch"].append(partial(_torch_best, x, layer.weight, k))
        forms["fewstep, logits and top_k"].append(partial(_our_best, x, layer.packed, k))
    return forms


def _torch_best(x: torch.Tensor, weight: torch.Tensor, k: int) -> Any:
    return functional.linear(x, weight).topk(k)


def _our_best(x: torch.Tensor, packed: fewstep.linear.Packed, k: int) -> Any:
    return fewstep.logits.top_k(fewstep.linear.run(x, packed), k)


def _measured(head: Row, forms: Forms, moved: int, target: Target) -> Iterator[Row]:
    """Time all forms turn by turn with what limits them."""
    timed = {
        name: Timed(rotated([target.capture(call) for call in calls]))
        for name, calls in forms.items()
    }
    many = head["M"] >= MANY and head["dtype"] == "bfloat16"
    timed |= {"gemm": product(target)} if many else {}
    times = interleaved(timed | copies(target), BUDGET_S, target.clock)
    for name in list(forms)[1:]:
        yield timed_row(head, name, times["ours"], times[name], spread=True)
    theirs = [name for name in forms if name.startswith("torch")]
    if len(theirs) > 1:
        best = min(theirs, key=lambda name: times[name].median_us)
        yield timed_row(head, "torch best", times["ours"], times[best]) | {"form": best}
    yield copy_row(head, moved, times)
    if many:
        yield product_row(head, 2.0 * head["M"] * head["I"] * head["O"], times)


def kind_rows(kind: str, options: Options, target: Target) -> Iterator[Row]:
    """Measure layers of a kind of weights."""
    others = [shape for shape in SHAPES if shape[1] >= LEAST_INPUTS]
    for shape in (SHAPE, *(() if options.quick else others)):
        layers = _layers(kind, shape, target)
        counts = ROWS if shape == SHAPE and not options.quick else SOME_ROWS
        for rows in counts:
            head = layers[0].head(rows) | target.labels
            size = layers[0].weight.element_size()
            moved = layers[0].packed.nbytes + rows * sum(shape) * size
            yield from _measured(head, _forms(layers, rows), moved, target)


def head_rows(options: Options, target: Target) -> Iterator[Row]:
    """Measure the best tokens of a whole head and of one of frequent tokens."""
    for shape in HEADS[1:] if options.quick else HEADS:
        layers = _layers("bfloat16", shape, target)
        for rows in SOME_ROWS:
            head = layers[0].head(rows) | {"op": f"logits.{HEAD}", "case": HEAD, "K": BEST}
            forms = _head_forms(layers, rows)
            yield from _measured(head | target.labels, forms, layers[0].packed.nbytes, target)


def parts_of(options: Options, target: Target) -> list[tuple[str, Part]]:
    """List what was asked for; ``quick`` measures one layer and the smaller head."""
    parts: dict[str, Part] = {kind: partial(kind_rows, kind, options, target) for kind in KINDS}
    parts[HEAD] = partial(head_rows, options, target)
    return [(name, parts[name]) for name in NAMES if options.wants(name)]


run = benchmark(parts_of)
table = partial(decode_table, title="fewstep bench linear")
