# SPDX-License-Identifier: Apache-2.0
"""What the benchmark calls of FlashInfer, in torch, as its documentation describes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch


class Wrapper:
    """Attention to pages, planned first."""

    is_decode = False

    def __init__(self, workspace: torch.Tensor, **options: Any) -> None:
        assert workspace.dtype == torch.uint8
        assert options == ({"use_tensor_cores": True} if self.is_decode else {})

    def plan(self, *sizes: Any, custom_mask: Any = None, **kinds: torch.dtype) -> None:
        rows, (ends, places, last) = None, sizes[-7:-4]
        self.heads, self.groups, self.dim, self.page = sizes[-4:]
        assert set(kinds) == {"q_data_type", "kv_data_type"}
        if not self.is_decode:
            rows = sizes[0].tolist()
        assert (last == self.page).all()
        assert len(places) == ends[-1]
        batch = len(last)
        self.length = len(places) // batch * self.page
        self.rows = 1 if rows is None else rows[1]
        self.mask = torch.ones(batch, self.rows, self.length, dtype=torch.bool)
        if custom_mask is not None:
            assert custom_mask.dim() == 1
            self.mask = custom_mask.view(self.mask.shape)

    def run(self, q: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        batch = len(self.mask)
        assert q.shape == (batch * self.rows, self.heads, self.dim)
        assert cache[0].shape[1:] == (self.page, self.groups, self.dim)
        k, v = (x.view(batch, self.length, self.groups, self.dim).transpose(1, 2) for x in cache)
        out = torch.nn.functional.scaled_dot_product_attention(
            q.view(batch, self.rows, self.heads, self.dim).transpose(1, 2), k, v,
            attn_mask=self.mask[:, None], enable_gqa=True,
        )  # fmt: skip
        return out.transpose(1, 2).reshape(q.shape)


class Decode(Wrapper):
    """Of one row a request, without a mask."""

    is_decode = True


def _filtered(p: torch.Tensor, top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    values, ids = p.sort(-1, descending=True)
    if top_k:
        values[:, top_k:] = 0
    values /= values.sum(-1, keepdim=True)
    values[values.cumsum(-1) - values >= top_p] = 0
    return torch.multinomial(torch.zeros_like(p).scatter_(1, ids, values), 1)[:, 0].int()


def _min_p(p: torch.Tensor, share: float) -> torch.Tensor:
    kept = p * (p >= share * p.amax(-1, keepdim=True))
    return torch.multinomial(kept, 1)[:, 0].int()


def _softmax(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    return (logits / temperature).softmax(-1)


def _chain(q: torch.Tensor, drafts: torch.Tensor, p: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the tokens of each request, -1 behind the last, and how many drafts are among them."""
    batch, count = drafts.shape
    out, emitted = torch.full((batch, count + 1), -1, dtype=torch.int32), torch.zeros(batch)
    for b in range(batch):
        kept = 0
        while kept < count:
            token = int(drafts[b, kept])
            if float(torch.rand(1)) * q[b, kept, token] >= p[b, kept, token]:
                break
            out[b, kept] = token
            kept += 1
        law = p[b, kept] if kept == count else (p[b, kept] - q[b, kept]).clamp(min=0.0)
        out[b, kept] = torch.multinomial(law, 1)[0]
        emitted[b] = kept
    return out, emitted.int(), emitted.int()


def module() -> Any:
    """Return what stands for ``flashinfer``."""
    sampling = SimpleNamespace(
        softmax=_softmax,
        sampling_from_logits=lambda x: _filtered(x.softmax(-1)),
        top_k_top_p_sampling_from_logits=lambda x, k, p: _filtered(x.softmax(-1), k, p),
        top_k_top_p_sampling_from_probs=_filtered,
        top_p_sampling_from_probs=lambda x, p: _filtered(x, 0, p),
        min_p_sampling_from_probs=_min_p,
        chain_speculative_sampling=_chain,
    )
    return SimpleNamespace(
        sampling=sampling,
        BatchPrefillWithPagedKVCacheWrapper=Wrapper,
        BatchDecodeWithPagedKVCacheWrapper=Decode,
    )
