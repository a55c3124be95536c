# SPDX-License-Identifier: Apache-2.0
"""Attention of draft trees to a KV cache; `fewstep.tree` re-exports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewstep import _core
from fewstep._arrays import empty, shape_of

_DRAFTS = ("cache", "view", "none")


def dtype_name(array: Any) -> str:
    """Return an array's dtype by the name that numpy and torch share."""
    return str(array.dtype).removeprefix("torch.")


def attention(
    q: Any,
    k: Any,
    v: Any,
    kv_len: Any,
    indptr: Any,
    *,
    page_table: Any = None,
    k_scale: Any = None,
    v_scale: Any = None,
    draft: str | None = None,
    draft_k: Any = None,
    draft_v: Any = None,
    block: Any = None,
    bits: Any = None,
    depth: Any = None,
    sinks: Any = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int = 0,
    deterministic: bool = False,
    out: Any = None,
    lse: Any = None,
    workspace: Any = None,
) -> Any:
    """Attend from the rows of token trees to a KV cache and to the trees themselves.

    Rows ``indptr[b]`` to ``indptr[b + 1] - 1`` are request b's: its draft block, such as a tree to
    verify, or one token. They see all of the request's prefix, and of the block what `bits` says.
    Of a request with P cached tokens before its block, row n lies at position ``P + depth[n]``.
    With `block` the rows are the last tokens of a longer block: a tree grows level by level, each
    level's rows seeing their ancestors among the earlier ones.

    Parameters
    ----------
    q : array, shape (N, H, D); float32 | float16 | bfloat16
        D is a multiple of 16 up to 256.
    k, v : array, shape (P, T, G, D); dtype of q, or int8 | float8_e4m3fn
        The cache: P pages of T tokens, or without `page_table` one page per request. H is 1 to 16
        times G. Any strides but the last: a cache of shape (B, G, S, D) is
        ``k.transpose(1, 2)``.
    kv_len : array, shape (B,), int32
        Tokens that each request has in the cache, with its draft block where that lies there.
    indptr : array, shape (B + 1,), int32
        Ends of the requests' rows: 0 first, N last.
    page_table : array, shape (B, M), int32, optional
        Token i of request b is token ``i % T`` of page ``page_table[b, i // T]``.
    k_scale, v_scale : array, shape (P, T, G), float32, optional
        Of an int8 or float8 cache: an element is its number times the scale of its token and head.
    draft : {"cache", "view", "none"}, optional
        Where the keys of the rows themselves lie: they are the cache's last tokens (default), or
        `draft_k` and `draft_v` (default when these are given), or there are none.
    draft_k, draft_v : array, shape (N, G, D); dtype of q, optional
        Keys and values of the rows, when they are not in the cache.
    block : array, shape (B,), int32, optional
        How many of each request's last tokens in the cache are its draft block, the rows included,
        which are the last of it; the rows alone when left out. With ``draft="cache"`` only.
    bits : array, shape (N, W), uint32 | int32, optional
        Bit j of row n: whether it sees token j of its request's block. A causal chain without.
    depth : array, shape (N,), int32, optional
        Positions behind the prefix; read with `window` alone. The number of set bits less 1, or
        the index in the block, when left out. A token of the block before the rows lies as far
        behind a row as that sees tokens of the block after it.
    sinks : array, shape (H,), float32, optional
        A further logit of each head, whose value is zero.
    scale : float, optional
        Of the logits, above 0; ``1 / sqrt(D)`` by default.
    softcap : float
        Logits become ``softcap * tanh(logit / softcap)``; 0 for none.
    window : int
        A row sees keys fewer than this many positions back; 0 for all.
    deterministic : bool
        A row has the same bits whatever else is in the call: k + 1 rows of a chain equal k + 1
        single steps, and a tree at once equals its levels one by one.
    out : array, shape (N, H, D); dtype of q, or float32, optional
        Written in place and returned.
    lse : array, shape (N, H), float32, optional
        Written: natural logarithm of the sum of the weights, the sink's included.
    workspace : array, shape (W,), int64, optional
        Scratch of ``workspace_bytes`` of the C function; allocated when left out.

    Returns
    -------
    array, shape (N, H, D)
        `out`; or a new array of q's kind, dtype and device. Rows that see nothing are zero.

    Raises
    ------
    ValueError
        A shape, dtype, length, page or overlap that is not as described; the message names the
        argument.
    TypeError
        Something is not an array.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    Online softmax over tiles of keys; each key and value is read once for all rows and heads that
    share it. Sums are float32. The bits are the same on every run and with any number of threads;
    and with every instruction set, but for bfloat16 where AVX512-BF16 multiplies pairs: that rounds
    the softmax's weights to bfloat16 as well. Allocates nothing with `out` and `workspace`.

    On CUDA weights are rounded to the type of a 16-bit cache, and the bits are those of one kind of
    GPU. Nobody reads `indptr`, lengths and pages before: a request that they do not fit is passed
    over, and a key on a page that there is not is not seen.

    Values that a row does not see but that lie in its request's part of the cache or block are
    multiplied by zero: they have to be finite.

    References
    ----------
    .. [1] Milakov, Gimelshein, "Online normalizer calculation for softmax", arXiv 1805.02867.
    .. [2] Dao et al., "FlashAttention", arXiv 2205.14135.
    .. [3] Miao et al., "SpecInfer", arXiv 2305.09781.

    Examples
    --------
    One request with two cached tokens, and a third that it attends from:

    >>> k = np.zeros((1, 4, 1, 16), np.float32)
    >>> v = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1) * np.ones((1, 1, 1, 16), np.float32)
    >>> ends = np.array([0, 1], np.int32)
    >>> out = fewstep.tree.attention(k[:, 2], k, v, np.array([3], np.int32), ends)
    >>> out[0, 0, 0]
    np.float32(1.0)
    """
    if draft is None:
        draft = "cache" if draft_k is None else "view"
    if draft not in _DRAFTS:
        raise ValueError(
            f"fewstep.tree.attention: 'draft' must be one of cache, view, none, got {draft!r}"
        )
    if scale is not None and not scale > 0:
        raise ValueError(f"fewstep.tree.attention: 'scale' must be above 0, got {scale}")
    if out is None:
        out = empty(shape_of("fewstep.tree.attention", "q", q), dtype_name(q), q)
    if workspace is None:
        workspace = _workspace(q, k, kv_len, page_table, deterministic)
    _core.tree_attention(
        q, k, v, kv_len, indptr, page_table, k_scale, v_scale, draft_k, draft_v, block,
        bits, depth, sinks, _DRAFTS.index(draft), 0.0 if scale is None else scale, softcap, window,
        deterministic, out, lse, workspace,
    )  # fmt: skip
    return out


def _workspace(q: Any, k: Any, kv_len: Any, page_table: Any, deterministic: bool) -> Any:
    """Allocate scratch for a call; None where the shapes are wrong, which the op says better."""
    shape = shape_of("fewstep.tree.attention", "q", q)
    cache: tuple[int, ...] = tuple(getattr(k, "shape", ()))
    if len(shape) != 3 or len(cache) != 4 or cache[2] < 1:
        return None
    rows, heads, dim = shape
    longest = 0
    if deterministic and getattr(q, "is_cuda", False):  # lengths are not for the host to read
        pages = 1 if page_table is None else shape_of("", "page_table", page_table)[-1]
        longest = rows + pages * cache[1]
    elif deterministic:
        longest = rows + (int(kv_len.max()) if shape_of("", "kv_len", kv_len)[0] else 0)
    needed = _core.tree_attention_workspace_bytes(
        rows, heads, cache[2], dim, longest, deterministic
    )
    return empty((needed // 8,), "int64", q) if needed else None


def merge(parts: Sequence[Any], lses: Sequence[Any], *, out: Any = None, lse: Any = None) -> Any:
    """Join the results of attention to disjoint sets of keys, in their order.

    ``out = sum_i exp(lses[i] - lse) * parts[i]`` with ``lse = log(sum_i exp(lses[i]))``: attention
    to all of the keys, of which each part saw some, as of a cache that is split over devices.

    Parameters
    ----------
    parts : sequence of 1 to 8 arrays, shape (N, H, D); float32 | float16 | bfloat16
        Results of `attention`; each of its own dtype.
    lses : sequence of arrays, shape (N, H), float32
        What `attention` wrote to `lse` with each. Sinks belong to one part only.
    out : array, shape (N, H, D); float32 | float16 | bfloat16, optional
        Written in place and returned.
    lse : array, shape (N, H), float32, optional
        Written: with it, the result is a part of a further merge.

    Returns
    -------
    array, shape (N, H, D)
        `out`; or a new array like the first part. Zero where every lse is -infinity.

    Raises
    ------
    ValueError
        A shape, dtype, number of parts or overlap that is not as described; the message names the
        argument.
    TypeError
        Something is not an array.

    Notes
    -----
    A part whose lse is -infinity counts for nothing, whatever its values. The same bits alone or in
    a batch, on any number of threads, with every kernel variant; but the last bit of `lse` on CUDA.
    Allocates nothing with `out`.

    References
    ----------
    .. [1] Ye et al., "FlashInfer", arXiv 2501.01005, section 2.2.

    Examples
    --------
    >>> one, two = np.full((1, 1, 2), 1.0, np.float32), np.full((1, 1, 2), 2.0, np.float32)
    >>> same = np.zeros((1, 1), np.float32)
    >>> fewstep.tree.merge([one, two], [same, same])
    array([[[1.5, 1.5]]], dtype=float32)
    """
    given, logs = list(parts), list(lses)
    if not given:
        raise ValueError("fewstep.tree.merge: 'parts' must hold 1 to 8 arrays, got 0")
    if out is None:
        first = given[0]
        out = empty(shape_of("fewstep.tree.merge", "parts", first), dtype_name(first), first)
    _core.tree_merge(given, logs, out, lse)
    return out
