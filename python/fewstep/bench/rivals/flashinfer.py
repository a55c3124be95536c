# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's kernels, where it is installed: what serving engines call on NVIDIA GPUs.

Each function raises ImportError without it. A wrapper is planned once, outside of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .samplers import Sampler

Call = Callable[[], torch.Tensor]

SCRATCH = 128 << 20  # bytes, as its documentation recommends


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, page: int
) -> Call:
    """Return attention by the custom-mask path; of single rows, which see all, by that for decode.

    Parameters
    ----------
    q : torch.Tensor, shape (B, H, T, D)
    k, v : torch.Tensor, shape (B, G, L, D)
        Copied into pages first.
    seen : torch.Tensor, shape (T, L), bool
    page : int
        Tokens of a page, which divide L.
    """
    import flashinfer  # type: ignore[import-not-found]

    batch, heads, rows, dim = q.shape
    groups, length = k.shape[1:3]
    pages = batch * length // page
    cache = tuple(x.transpose(1, 2).reshape(pages, page, groups, dim) for x in (k, v))
    flat = q.transpose(1, 2).reshape(batch * rows, heads, dim)
    ends = torch.arange(batch + 1, dtype=torch.int32, device=q.device)
    last = torch.full((batch,), page, dtype=torch.int32, device=q.device)
    places = torch.arange(pages, dtype=torch.int32, device=q.device)
    scratch = torch.zeros(SCRATCH, dtype=torch.uint8, device=q.device)
    sizes = (ends * (length // page), places, last, heads, groups, dim, page)
    kinds = {"q_data_type": q.dtype, "kv_data_type": k.dtype}
    wrapper: Any
    if rows == 1:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(scratch, use_tensor_cores=True)
        wrapper.plan(*sizes, **kinds)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(scratch)
        mask = seen.flatten().repeat(batch)
        wrapper.plan(ends * rows, *sizes, custom_mask=mask, **kinds)

    def call() -> torch.Tensor:
        out: torch.Tensor = wrapper.run(flat, cache)
        return out.view(batch, rows, heads, dim).transpose(1, 2)

    return call


def samplers(
    case: str, logits: torch.Tensor, filters: dict[str, Any], law: Call
) -> dict[str, Sampler]:
    """Return the forms for a case of `fewstep.bench.decode.sampling`, whose law is given."""
    from flashinfer import sampling

    temperature = filters.get("temperature", 1.0)

    def scaled() -> torch.Tensor:
        return logits if temperature == 1.0 else logits / temperature

    def weighed() -> torch.Tensor:
        p: torch.Tensor = sampling.softmax(logits, temperature=temperature)
        return p

    draws: dict[str, dict[str, Call]] = {
        "plain": {"flashinfer logits": lambda: sampling.sampling_from_logits(scaled())},
        "top_k_top_p": {
            "flashinfer logits": lambda: sampling.top_k_top_p_sampling_from_logits(
                scaled(), filters["top_k"], filters["top_p"]
            ),
            "flashinfer": lambda: sampling.top_k_top_p_sampling_from_probs(
                weighed(), filters["top_k"], filters["top_p"]
            ),
        },
        "top_p": {
            "flashinfer": lambda: sampling.top_p_sampling_from_probs(weighed(), filters["top_p"])
        },
        "min_p": {
            "flashinfer": lambda: sampling.min_p_sampling_from_probs(weighed(), filters["min_p"])
        },
    }
    return {
        name: Sampler(law, lambda draw=draw: draw().long()[:, None])  # type: ignore[misc]
        for name, draw in draws[case].items()
    }


def chain(logits: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor) -> Callable[[], Any]:
    """Return verification of chains, the target's softmax included.

    Parameters
    ----------
    logits : torch.Tensor, shape (B, K + 1, V)
    q : torch.Tensor, shape (B, K, V)
        What drafts were drawn from.
    tokens : torch.Tensor, shape (B, K)

    Returns
    -------
    callable
        It returns the last accepted drafts, counted from 1, and the next tokens, each of shape
        (B,).
    """
    from flashinfer import sampling

    drafts, rows = tokens.int(), logits.flatten(0, 1)

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        p = sampling.softmax(rows).view(logits.shape)
        out, _, emitted = sampling.chain_speculative_sampling(q, drafts, p)
        return emitted.long(), out.long().gather(1, emitted.long()[:, None])[:, 0]

    return call
