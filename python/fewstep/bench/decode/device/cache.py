# SPDX-License-Identifier: Apache-2.0
"""The KV cache's ops on a GPU: rows of a step appended, and accepted rows put into place.

Caches are bfloat16 [B, S, G, D] of all layers in one tensor, with 8 heads of 128 elements. Calls
take other slots each time, so that none finds its rows in the device's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

import fewstep

from ...bandwidth import copies, copy_row
from ...cases import COMMIT_BAR
from ...rows import Options, Row, add_bar, check, timed_row
from ...target import Target
from ...timing import Timed, interleaved, rotated
from ..cache import DRAFT, PATH, D, G

NAMES = ("append_layers", "commit")
LAYERS, BATCH, TOKENS = 32, 64, 1024
QUICK_LAYERS = 4
BUDGET_S = 1.0


def rows(options: Options, progress: Callable[[str], None], target: Target) -> Iterator[Row]:
    """Measure what was asked for."""
    layers = QUICK_LAYERS if options.quick else LAYERS
    for name, measured in (("append_layers", _appended), ("commit", _committed)):
        if options.wants(name):
            progress(f"kv.{name}, {layers} layers, {BATCH} requests")
            yield from measured(layers, target)


def _caches(layers: int, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values [L, B, S, G, D]."""
    generator = torch.Generator(target.device).manual_seed(1)
    shape = (layers, BATCH, TOKENS, G, D)
    made = [torch.empty(shape, dtype=torch.bfloat16, device=target.device) for _ in range(2)]
    k, v = (x.normal_(generator=generator) for x in made)
    return k, v


def _ints(values: list[int], target: Target) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=target.device)


def _head(op: str, case: str, step: int, layers: int, target: Target) -> Row:
    sizes = {"T": step, "L": TOKENS, "B": BATCH, "layers": layers, "dtype": "bfloat16"}
    return {"op": op, "case": case, **sizes, **target.labels}


def _begins(moved: int, target: Target) -> list[int]:
    """Return where the draft blocks of calls in turn begin, of which each moves `moved` bytes."""
    return [DRAFT * i for i in range(min(target.sets(moved), TOKENS // DRAFT))]


def _committed(layers: int, target: Target) -> Iterator[Row]:
    """Five rows accepted of a draft block of 64, in all layers of all requests, in one launch."""
    k, v = _caches(layers, target)
    paths = _ints(list(PATH), target).repeat(BATCH, 1)
    accepted = _ints([len(PATH)] * BATCH, target)
    length = torch.empty_like(accepted)
    rows_ = len(PATH) - 1  # the root stays where it is
    moved = 2 * 2 * layers * BATCH * rows_ * G * D * k.element_size()  # read and written, k and v
    begins = _begins(moved, target)
    commit = partial(fewstep.kv.commit, k, v, paths, accepted)
    ours = [partial(commit, _ints([n] * BATCH, target), length=length) for n in begins]
    chosen = torch.tensor(PATH[1:], device=target.device)

    def in_place(begin: int) -> None:
        for part in (k, v):
            part[:, :, begin + 1 : begin + 1 + rows_] = part.index_select(2, begin + chosen)

    wanted = k[:, :, chosen].clone()
    ours[0]()
    check("commit", 0.0 if torch.equal(k[:, :, 1 : 1 + rows_], wanted) else 1.0, 0.0)
    timed = {
        "ours": Timed(rotated(ours)),
        "torch in place": Timed(rotated([partial(in_place, n) for n in begins])),
    }
    times = interleaved(timed | copies(target), BUDGET_S, target.clock)
    head = _head("kv.commit", "commit", DRAFT, layers, target)
    yield timed_row(head, "torch in place", times["ours"], times["torch in place"])
    row = copy_row(head, moved, times)
    add_bar(row, COMMIT_BAR, "share")
    yield row


def _appended(layers: int, target: Target) -> Iterator[Row]:
    """Five rows of each request behind its tokens, layer by layer as a model's pass has them."""
    k, v = _caches(layers, target)
    step = len(PATH)
    generator = torch.Generator(target.device).manual_seed(2)
    shape = (layers, BATCH * step, G, D)
    new = torch.empty((2, *shape), dtype=k.dtype, device=k.device).normal_(generator=generator)
    indptr = _ints([step * b for b in range(BATCH + 1)], target)
    moved = 2 * 2 * layers * BATCH * step * G * D * k.element_size()
    begins = _begins(moved, target)

    def ours(length: torch.Tensor) -> None:
        for layer in range(layers):
            own = k[layer], v[layer]
            fewstep.kv.append(new[0, layer], new[1, layer], *own, indptr, length)

    def in_place(begin: int) -> None:
        for layer in range(layers):
            for part, rows_ in zip((k, v), new, strict=True):
                own = rows_[layer].view(BATCH, step, G, D)
                part[layer, :, begin : begin + step] = own

    lengths = [_ints([n] * BATCH, target) for n in begins]
    ours(lengths[0])
    written = k[:, :, :step].reshape(shape)
    check("append", 0.0 if torch.equal(written, new[0]) else 1.0, 0.0)
    timed = {
        "ours": Timed(rotated([partial(ours, length) for length in lengths])),
        "torch in place": Timed(rotated([partial(in_place, n) for n in begins])),
    }
    times = interleaved(timed, BUDGET_S, target.clock)
    head = _head("kv.append", "append_layers", step, layers, target)
    yield timed_row(head, "torch in place", times["ours"], times["torch in place"])
