# SPDX-License-Identifier: Apache-2.0
"""Attention ``"fewstep"`` of transformers, and the masks that it takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

from .._torch_weight import has_kernels
from .._transfer import is_captured, on_device, on_host
from ..tree import attention as tree_attention
from ._cache import NAME, PagedKeys, flat
from ._rows import LONGEST, Requests, chains, tensor
from ._store import FITTING

FIELDS = 3  # of a span: the first key that is seen, the first row's slot, the window


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    config: Any = None,
    **kwargs: Any,
) -> torch.Tensor | None:
    """Return what rows see: None for all before them, spans, or a mask of every row and key.

    Spans are integers of the host, of shape (B, 1, 1, 3), so that a model passes them on as it does
    with masks. What is on a device is read there once for all layers, and never while their work is
    captured.
    """
    window = _window(mask_function, local_size, allow_is_causal_skip, config)
    if (
        not torch.compiler.is_compiling()
        and window is not None
        and all(map(_is_readable, (attention_mask, q_offset)))
    ):
        begin, kv_begin = int(q_offset), int(kv_offset)
        offset = begin - kv_begin
        first = _first(attention_mask, begin, kv_begin)
        if first is not None:
            if not (window or any(first)) and offset + q_length == kv_length:
                return None
            first = first or [0] * batch_size
            spans = tensor([[f, offset, window] for f in first])
            return spans.view(-1, 1, 1, FIELDS)
    dense: torch.Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=False,
        **{name: kwargs[name] for name in ("use_vmap", "device") if name in kwargs},
    )
    return dense


def _window(mask_function: Any, local_size: int | None, plain: bool, config: Any) -> int | None:
    """Return the window of a causal mask, 0 for none; None of any other mask."""
    if mask_function is causal_mask_function:
        return 0
    chunked = getattr(config, "attention_chunk_size", None) is not None
    window = getattr(config, "sliding_window", None)
    if plain and local_size and not chunked and local_size == window:
        return local_size
    return None


def _is_readable(given: Any) -> bool:
    """Tell whether the host may look at what a mask is made of."""
    return not on_device(given) or (has_kernels(given.device) and not is_captured(given))


def _first(given: torch.Tensor | None, q_offset: int, kv_offset: int) -> list[int] | None:
    """Return each sequence's first key that is no padding; None where padding lies elsewhere.

    Padding on the right is behind the rows that count, so they do not see it anyway.
    """
    if given is None:
        return []
    seen = on_host(given).numpy()
    if seen.all():
        return []
    first = seen.argmax(1)
    last = seen.shape[1] - seen[:, ::-1].argmax(1)
    whole = (seen.sum(1) == last - first) & ((last == seen.shape[1]) | (last >= q_offset))
    if not (whole & seen.any(1)).all():
        return None
    return cast("list[int]", np.maximum(first - kv_offset, 0).tolist())


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from query [B, H, N, D] to keys [B, G, S, D]; return [B, N, H, D].

    What the kernel does not do, such as gradients and masks of every row and key, torch does.
    """
    window = sliding_window or 0
    spans: Any = attention_mask
    if attention_mask is not None and _is_spans(attention_mask):
        spans = attention_mask.flatten(0, 2).tolist()
        window = spans[0][2]
    options: dict[str, Any] = {"scale": scaling, "softcap": softcap or 0.0, "window": window}
    unfit = _unfit(module, query, key, value, dropout, kwargs)
    if s_aux is not None:
        options["sinks"] = s_aux if unfit else s_aux.detach().float()
    if type(key) is PagedKeys:
        if unfit:
            raise NotImplementedError(
                f"fewstep.transformers: attention to a paged cache must be {unfit}"
            )
        if isinstance(spans, list) or spans is None:
            return _paged(query, key, spans, options), None
        key, value = _gathered(key)
    if unfit or isinstance(spans, torch.Tensor):
        if spans is None and not getattr(module, "is_causal", True):
            spans = key.new_ones((1, 1, 1, key.shape[2]), dtype=torch.bool)
        return _dense(query, key, value, spans, dropout, options), None
    return _contiguous(query, key, value, spans, options), None


def _is_spans(mask: torch.Tensor) -> bool:
    return mask.dtype == torch.int32 and mask.shape[-1] == FIELDS


def _unfit(
    module: Any, query: Any, key: Any, value: Any, dropout: float, kwargs: dict[str, Any]
) -> str | None:
    """Return what a call would have to be for the kernel; None where it is."""
    wants_gradient = torch.is_grad_enabled() and query.requires_grad
    if torch.compiler.is_compiling() or wants_gradient or dropout > 0:
        return "without gradients, dropout and compilation"
    if not has_kernels(query.device) or query.dtype not in FITTING:
        return "on cpu or cuda, of float32, float16 or bfloat16"
    dim, ratio = query.shape[3], query.shape[1] // key.shape[1]
    if dim % 16 or dim > 256 or value.shape[3] != dim or ratio > 16:
        return "of heads of 16, 32, ... 256 elements, up to 16 to a head of keys"
    if key.dtype != query.dtype:
        return f"of keys in the queries' dtype, {query.dtype}"
    if kwargs.get("position_bias") is not None:
        return "without position bias"
    if not kwargs.get("is_causal", getattr(module, "is_causal", True)):
        return "causal"
    return None


def _paged(
    query: torch.Tensor, key: PagedKeys, spans: list[list[int]] | None, options: dict[str, Any]
) -> torch.Tensor:
    batch, heads, count, dim = query.shape
    pages, layer, q = key.pages, key.layer, flat(query)
    requests = pages.requests([span[0] for span in spans] if spans else None)
    if requests.index is None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        pages.store.attend(layer, q, requests, out, **options)
    else:
        some = q[requests.index]
        out = torch.zeros_like(q)
        out[requests.index] = pages.store.attend(
            layer, some, requests, torch.empty_like(some), **options
        )
    return out.view(batch, count, heads, dim)


def _gathered(key: PagedKeys) -> tuple[torch.Tensor, torch.Tensor]:
    gathered = getattr(key.pages, "gathered", None)
    if gathered is None:
        raise NotImplementedError(
            "fewstep.transformers: attention of a PagedModel must be causal, got a mask"
        )
    return cast("tuple[torch.Tensor, torch.Tensor]", gathered(key.layer))


def _whole(batch: int, count: int, length: int, like: torch.Tensor) -> Requests:
    """Return the requests of a batch without padding, a page each, whose last tokens are rows."""
    if is_captured(like):  # what a graph reads must be its own
        return _requests(batch, count, length, like.device)
    # Work of another stream may run before what made them.
    stream = 0 if like.is_cpu else torch.cuda.current_stream(like.device).cuda_stream
    return _kept_requests(stream, batch, count, length, like.device)


@lru_cache(maxsize=64)
def _kept_requests(stream: int, *given: Any) -> Requests:
    return _requests(*given)


def _requests(batch: int, count: int, length: int, device: torch.device) -> Requests:
    """Make them with `chains`; on a device without a copy from the host, for graphs' sake."""
    if device.type == "cpu":
        owner = np.arange(batch, dtype=np.int32)
        return chains(np.full_like(owner, length), np.full_like(owner, count), owner[:, None])
    parts = -(-count // LONGEST)
    ends = torch.arange(1, parts + 1, dtype=torch.int32, device=device) * LONGEST
    ends = ends.clamp(max=count)
    sequence = torch.arange(batch, dtype=torch.int32, device=device)[:, None]
    indptr = torch.nn.functional.pad((sequence * count + ends).flatten(), (1, 0))
    table = sequence.repeat_interleave(parts, 0)
    return Requests(indptr, (ends + (length - count)).repeat(batch), table)


def _contiguous(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: list[list[int]] | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """Attend to keys in one tensor; sequences with padding go one by one."""
    batch, heads, count, dim = query.shape
    end = key.shape[2] if spans is None else spans[0][1] + count
    key, value = key.transpose(1, 2)[:, :end], value.transpose(1, 2)[:, :end]
    query = query.transpose(1, 2)
    firsts = [0] * batch if spans is None else [min(span[0], end) for span in spans]
    if not any(firsts):
        out = query.new_empty(batch * count, heads, dim)
        requests = _whole(batch, count, end, query)
        _attend(query.reshape(out.shape), key, value, requests, out, options)
        return out.view(batch, count, heads, dim)
    out = query.new_zeros(batch, count, heads, dim)
    for b, first in enumerate(firsts):
        rows = min(count, end - first)
        some = query[b, count - rows :].contiguous()
        requests = _whole(1, rows, end - first, query)
        here = slice(b, b + 1), slice(first, None)
        _attend(some, key[here], value[here], requests, out[b, count - rows :], options)
    return out


def _attend(
    q: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    requests: Requests,
    out: torch.Tensor,
    options: dict[str, Any],
) -> None:
    if len(q):
        tree_attention(
            q, key, value, requests.kv_len, requests.indptr, page_table=requests.table, out=out,
            **options,
        )  # fmt: skip


def _dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: Any,
    dropout: float,
    options: dict[str, Any],
) -> torch.Tensor:
    """Attend in torch, with a mask of every row and key."""
    if not isinstance(seen, torch.Tensor):
        seen = _every(query.shape[2], key.shape[2], seen, options["window"], query.device)
    scale = options["scale"] if options["scale"] is not None else query.shape[3] ** -0.5
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    sinks, softcap = options.get("sinks"), options["softcap"]
    if sinks is None and not softcap:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=dropout, scale=scale
        )
        return out.transpose(1, 2).contiguous()
    logits = (query @ key.transpose(2, 3)).float() * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    if seen.dtype == torch.bool:
        logits = logits.masked_fill(~seen, torch.finfo(torch.float32).min)
    else:
        logits = logits + seen
    if sinks is not None:
        more = sinks.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, more.to(logits)], -1)
    weights = torch.softmax(logits, -1)[..., : key.shape[2]].to(query.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, dropout > 0)
    return (weights @ value).transpose(1, 2).contiguous()


def _every(
    rows: int, keys: int, spans: list[list[int]] | None, window: int, device: Any
) -> torch.Tensor:
    """Return the mask [B, 1, N, S] that spans stand for; a row that sees nothing sees all."""
    spans = spans or [[0, keys - rows, window]]
    place = torch.arange(rows, device=device)[:, None] + spans[0][1]
    slots = torch.arange(keys, device=device)
    seen = slots <= place
    if window:
        seen = seen & (slots > place - window)
    first = torch.tensor([span[0] for span in spans], device=device)
    seen = seen & (slots >= first[:, None, None, None])
    return seen | ~seen.any(-1, keepdim=True)


def register() -> None:
    """Make the attention known to transformers by its name."""
    interface: Any = AttentionInterface
    interface.register(NAME, attention)
    masks: Any = AttentionMaskInterface
    masks.register(NAME, mask)
