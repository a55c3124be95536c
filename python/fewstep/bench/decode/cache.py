# SPDX-License-Identifier: Apache-2.0
"""The KV cache: rows of a step appended, and accepted rows of a draft block put into place.

Caches are bfloat16 [B, G, S, D], transformers' layout, with 8 heads of 128 elements. ``L`` is the
tokens in the cache, ``T`` those of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import fewstep

from ..rows import Options, Row, add_bar, check, set_threads, timed_row
from ..timing import Timed, interleaved

NAMES = ("append", "append_layers", "commit")
G, D = 8, 128
LAYERS, QUICK_LAYERS = 32, 2
TOKENS, QUICK_TOKENS = 8192, 512
DRAFT = 64  # rows of a draft block
PATH = (0, 2, 5, 11, 23)  # accepted of them
COMMIT_BATCH, COMMIT_TOKENS = 8, 1024
# By op, rival and tokens in the cache: of fewer, a rival copies less.
BARS = {
    ("kv.append", "torch.cat", TOKENS): 50.0,
    ("kv.commit", "index_select", COMMIT_TOKENS): 50.0,
    ("kv.commit", "torch in place", COMMIT_TOKENS): 1.2,
}

Call = Callable[[], Any]


def rows(options: Options, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure what was asked for."""
    for threads in options.threads:
        set_threads(threads)
        for name in NAMES:
            if not options.wants(name):
                continue
            progress(f"kv.{name}, {threads} threads")
            layers = QUICK_LAYERS if options.quick else LAYERS
            tokens = QUICK_TOKENS if options.quick else TOKENS
            if name == "append":
                yield from _appended(name, 1, tokens, threads)
            elif name == "append_layers":
                yield from _appended(name, layers, tokens, threads)
            else:
                length = QUICK_TOKENS if options.quick else COMMIT_TOKENS
                yield from _committed(name, layers, length, threads)


def _measured(head: Row, ours: Call, rivals: dict[str, Call]) -> Iterator[Row]:
    """Time all turn by turn; yield a row for each rival."""
    calls = {"ours": Timed(ours)} | {name: Timed(call) for name, call in rivals.items()}
    times = interleaved(calls, budget_s=2.0)
    for name in rivals:
        row = timed_row(head, name, times["ours"], times[name], spread=True)
        bar = BARS.get((head["op"], name, head["L"]))
        if bar:
            add_bar(row, bar)
        yield row


def _equal(what: str, ours: torch.Tensor, other: torch.Tensor) -> None:
    check(what, 0.0 if torch.equal(ours, other) else 1.0, 0.0)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.empty(shape, dtype=torch.bfloat16)
    return made.normal_(generator=torch.Generator().manual_seed(seed))


def _appended(case: str, layers: int, tokens: int, threads: int) -> Iterator[Row]:
    """Five rows behind a cache of `tokens`, in each of `layers` layers, for one request."""
    count = len(PATH)
    new = [_random(2, 1, G, count, D, seed=layer) for layer in range(layers)]
    room = tokens + 128
    caches = [_random(2, 1, G, room, D, seed=100 + layer) for layer in range(layers)]
    held = [cache[:, :, :, :tokens].contiguous() for cache in caches]  # what cat copies
    indptr = torch.tensor([0, count], dtype=torch.int32)
    length = torch.tensor([tokens], dtype=torch.int32)
    at = torch.arange(tokens, tokens + count)
    append = fewstep.kv.append
    # A layer's rows and caches as [N, G, D] and [B, S, G, D]: views.
    views = [
        (*(x[0].transpose(0, 1) for x in n), *(x.transpose(1, 2) for x in c))
        for n, c in zip(new, caches, strict=True)
    ]

    def ours() -> None:
        for k, v, k_cache, v_cache in views:
            append(k, v, k_cache, v_cache, indptr, length)

    def cat() -> None:
        for (k, v), (k_new, v_new) in zip(held, new, strict=True):
            torch.cat([k, k_new], 2), torch.cat([v, v_new], 2)

    def in_place() -> None:
        for (k, v), (k_new, v_new) in zip(caches, new, strict=True):
            k.index_copy_(2, at, k_new)
            v.index_copy_(2, at, v_new)

    ours()
    for cache, (k, v), (k_new, v_new) in zip(caches, held, new, strict=True):
        _equal(case, cache[0][:, :, : tokens + count], torch.cat([k, k_new], 2))
        _equal(case, cache[1][:, :, : tokens + count], torch.cat([v, v_new], 2))
    head = {
        "op": "kv.append", "case": case, "T": count, "L": tokens, "B": 1, "layers": layers,
        "dtype": "bfloat16", "threads": threads,
    }  # fmt: skip
    rivals = {"torch.cat": cat, "torch in place": in_place, "transformers": _dynamic(held, new)}
    yield from _measured(head, ours, rivals)


def _dynamic(held: list[torch.Tensor], new: list[torch.Tensor]) -> Call:
    """Return a call of transformers' DynamicCache, which begins anew each time."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    for layer, (k, v) in enumerate(held):
        cache.update(k, v, layer)

    def update() -> None:
        for layer, (k_new, v_new) in enumerate(new):
            cache.update(k_new, v_new, layer)
            # The grown tensors are freed at once, as the next step's update frees them.
            cache.layers[layer].keys, cache.layers[layer].values = held[layer]

    return update


def _committed(case: str, layers: int, tokens: int, threads: int) -> Iterator[Row]:
    """Five rows accepted of a draft block of 64, in all layers of 8 requests."""
    batch, begin = COMMIT_BATCH, tokens - DRAFT
    stacked = _random(2 * layers, batch, G, tokens, D)
    path = torch.tensor(PATH)
    selected = torch.cat([torch.arange(begin), begin + path])
    wanted = stacked[:2].index_select(3, selected)
    k_cache, v_cache = ([x.transpose(1, 2) for x in stacked[i::2]] for i in (0, 1))
    paths = path.int().repeat(batch, 1)
    accepted = torch.full((batch,), len(PATH), dtype=torch.int32)
    base = torch.full((batch,), begin, dtype=torch.int32)
    length = torch.empty_like(base)
    ours = partial(fewstep.kv.commit, k_cache, v_cache, paths, accepted, base, length=length)
    moved, fixed = begin + path[1:], begin + 1  # the root stays where it is

    def select() -> None:
        for part in stacked:
            part.index_select(2, selected)

    def in_place() -> None:
        rows_ = stacked.index_select(3, moved)
        stacked[:, :, :, fixed : fixed + len(moved)].copy_(rows_)

    ours()
    kept = begin + len(PATH)
    _equal(case, stacked[:2, :, :, :kept], wanted)
    head = {
        "op": "kv.commit", "case": case, "T": DRAFT, "L": tokens, "B": batch, "layers": layers,
        "dtype": "bfloat16", "threads": threads,
    }  # fmt: skip
    yield from _measured(head, ours, {"index_select": select, "torch in place": in_place})
