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


class Sampler(NamedTuple):
    """A form: the law that it draws from, [B, V], and a draw, [B, 1]."""

    law: Call
    draw: Call


def plain(logits: torch.Tensor) -> dict[str, Sampler]:
    """Return the forms without a filter."""
    p = torch.empty_like(logits)
    blocks = p.view(len(p), -1, BLOCK)
    rows = torch.arange(len(p))

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
    ids = torch.zeros(len(logits), 1, dtype=torch.long)

    def law() -> torch.Tensor:
        p: torch.Tensor = process(ids, logits).softmax(-1)
        return p

    return Sampler(law, lambda: torch.multinomial(law(), 1))


def largest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest and their ids: all lie in the k blocks with the largest maxima."""
    blocks = logits.view(len(logits), -1, BLOCK)
    best = blocks.amax(-1).topk(min(k, blocks.shape[1]), -1).indices
    rows = torch.arange(len(logits))[:, None]
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


def min_p(logits: torch.Tensor, temperature: float, share: float) -> dict[str, Sampler]:
    """Return the forms that keep what has `share` of the largest probability."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper

    weights, sums = torch.empty_like(logits), torch.empty_like(logits)
    blocks, rows = logits.view(len(logits), -1, BLOCK), torch.arange(len(logits))
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
        p = torch.zeros(blocks.shape)
        p[row, block] = near
        return p.flatten(1).div_(p.sum((1, 2))[:, None])

    def draw() -> torch.Tensor:  # blocks of all rows in one list, with one cumulative sum
        row, block, near = kept_blocks()
        steps = near.flatten().double().cumsum(0)
        ends = steps[torch.searchsorted(row, rows, right=True) * BLOCK - 1]
        begins = torch.nn.functional.pad(ends[:-1], (1, 0))
        u = torch.lerp(begins, ends, torch.rand(len(rows), dtype=torch.float64))
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
