# SPDX-License-Identifier: Apache-2.0
"""Tokens from logits in torch and as transformers' generate has them.

Torch's multinomial, topk over a vocabulary, comparisons and cumulative sums are slow beside its
reductions. The forms called ``torch blocks`` first reduce blocks of 64 tokens, and then look at few
of them: the best that torch offers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .inversion import inverted

Call = Callable[[], torch.Tensor]

BLOCK = 64
FEW = 4096  # largest tokens that reach a share of the mass


class Sampler(NamedTuple):
    """A form: the law that it draws from, [B, V], and a draw, [B, 1]."""

    law: Call
    draw: Call


def plain(logits: torch.Tensor) -> dict[str, Sampler]:
    """Return the forms without a filter."""
    p = torch.empty_like(logits)
    blocks = p.view(len(p), -1, BLOCK)
    rows = torch.arange(len(p), device=p.device)

    def law() -> torch.Tensor:
        return torch.softmax(logits, -1, out=p)

    def draw() -> torch.Tensor:
        law()
        block = inverted(blocks.sum(-1))
        return block * BLOCK + inverted(blocks[rows, block[:, 0]])

    return {
        "torch multinomial": Sampler(law, lambda: torch.multinomial(law(), 1)),
        "torch blocks": Sampler(law, draw),
    }


def _transformers(logits: torch.Tensor, warpers: list[Any]) -> Sampler:
    from transformers import LogitsProcessorList

    process: Any = LogitsProcessorList(warpers)
    ids = torch.zeros(len(logits), 1, dtype=torch.long, device=logits.device)

    def law() -> torch.Tensor:
        p: torch.Tensor = process(ids, logits).softmax(-1)
        return p

    return Sampler(law, lambda: torch.multinomial(law(), 1))


def largest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest and their ids: all lie in the k blocks with the largest maxima."""
    blocks = logits.view(len(logits), -1, BLOCK)
    best = blocks.amax(-1).topk(min(k, blocks.shape[1]), -1).indices
    rows = torch.arange(len(logits), device=logits.device)[:, None]
    values, at = blocks[rows, best].flatten(1).topk(k, -1)
    return values, best.gather(1, at // BLOCK).mul_(BLOCK).add_(at % BLOCK)


def top_k_top_p(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float
) -> dict[str, Sampler]:
    """Return the forms that keep the `top_k` largest, and of these `top_p` of the mass."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    def kept_of(values: torch.Tensor) -> torch.Tensor:
        p = values.div_(temperature).softmax(-1)
        return p.mul_(p.cumsum(-1).sub_(p) < top_p)

    def form(k_largest: Callable[..., Any]) -> Sampler:
        def law() -> torch.Tensor:
            values, ids = k_largest(logits, top_k)
            p = kept_of(values)
            return torch.zeros_like(logits).scatter_(1, ids, p / p.sum(-1, keepdim=True))

        def draw() -> torch.Tensor:
            values, ids = k_largest(logits, top_k)
            token: torch.Tensor = ids.gather(1, inverted(kept_of(values)))
            return token

        return Sampler(law, draw)

    warpers = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k)]
    return {
        "transformers": _transformers(logits, [*warpers, TopPLogitsWarper(top_p)]),
        "torch": form(torch.topk),
        "torch blocks": form(largest),
    }


def top_p(logits: torch.Tensor, temperature: float, share: float) -> dict[str, Sampler]:
    """Return the forms that keep the fewest tokens whose probabilities reach `share`."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    def sorted_all(sums: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        values, ids = logits.sort(-1, descending=True)
        return values.div_(temperature).softmax(-1, dtype=sums), ids

    def sorted_few(sums: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the largest, where they reach the share, which nearly always they do."""
        total = logits.div(temperature).logsumexp(-1, keepdim=True)
        values, ids = logits.topk(min(FEW, logits.shape[1] // 2), -1)
        p = values.div_(temperature).sub_(total).to(sums).exp_()
        return (p, ids) if bool((p.sum(-1) >= share).all()) else sorted_all(sums)

    def form(best: Callable[[torch.dtype], tuple[torch.Tensor, torch.Tensor]]) -> Sampler:
        def kept(sums: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
            p, ids = best(sums)
            return p.mul_(p.cumsum(-1).sub_(p) < share), ids

        def law() -> torch.Tensor:  # float32 sums of sorted weights are off by 1e-4
            p, ids = kept(torch.float64)
            p.div_(p.sum(-1, keepdim=True))
            return torch.zeros_like(logits).scatter_(1, ids, p.float())

        def draw() -> torch.Tensor:
            p, ids = kept(torch.float32)
            return ids.gather(1, inverted(p))

        return Sampler(law, draw)

    warpers = [TemperatureLogitsWarper(temperature), TopPLogitsWarper(share)]
    return {
        "transformers": _transformers(logits, warpers),
        "torch": form(sorted_all),
        "torch topk": form(sorted_few),
    }


def widened(narrow: torch.Tensor, forms: Callable[..., dict[str, Sampler]]) -> dict[str, Sampler]:
    """Return forms for logits of 16 bits, which each call first makes float32 as generate does."""
    wide = narrow.float()

    def after(call: Call) -> Call:
        def run() -> torch.Tensor:
            wide.copy_(narrow)
            return call()

        return run

    return {n: Sampler(after(f.law), after(f.draw)) for n, f in forms(wide).items()}


def min_p(logits: torch.Tensor, temperature: float, share: float) -> dict[str, Sampler]:
    """Return the forms that keep what has `share` of the largest probability."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper

    weights, sums = torch.empty_like(logits), torch.empty_like(logits)
    blocks = logits.view(len(logits), -1, BLOCK)
    rows = torch.arange(len(logits), device=logits.device)
    cut = temperature * math.log(share)

    def kept() -> torch.Tensor:
        torch.sub(logits, logits.amax(-1, keepdim=True), out=weights).div_(temperature).exp_()
        return torch.threshold_(weights, share, 0.0)

    def kept_blocks() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maxima = blocks.amax(-1)
        top = maxima.amax(-1, keepdim=True)
        row, block = (maxima >= top + cut).nonzero(as_tuple=True)
        near = blocks[row, block].sub_(top[row]).div_(temperature).exp_()
        return row, block, torch.threshold_(near, share, 0.0)

    def law() -> torch.Tensor:
        row, block, near = kept_blocks()
        p = torch.zeros_like(blocks)
        p[row, block] = near
        return p.flatten(1).div_(p.sum((1, 2))[:, None])

    def draw() -> torch.Tensor:  # blocks of all rows in one list, with one cumulative sum
        row, block, near = kept_blocks()
        steps = near.flatten().double().cumsum(0)
        ends = steps[torch.searchsorted(row, rows, right=True) * BLOCK - 1]
        begins = torch.nn.functional.pad(ends[:-1], (1, 0))
        u = torch.lerp(begins, ends, torch.rand_like(ends))
        at = torch.searchsorted(steps, u, right=True)
        return (block[at // BLOCK] * BLOCK + at % BLOCK)[:, None]

    def law_of_all() -> torch.Tensor:
        return kept() / weights.sum(-1, keepdim=True)

    warpers = [TemperatureLogitsWarper(temperature), MinPLogitsWarper(share)]
    return {
        "transformers": _transformers(logits, warpers),
        "torch": Sampler(law_of_all, lambda: inverted(kept(), sums)),
        "torch blocks": Sampler(law, draw),
    }
