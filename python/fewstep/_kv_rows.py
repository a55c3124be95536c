# SPDX-License-Identifier: Apache-2.0
"""Rows of a KV cache: append and commit; `fewstep.kv` re-exports them."""

from __future__ import annotations

from typing import Any

from fewstep import _core

_ROPES = ("neox", "gptj")


def append(
    k: Any,
    v: Any,
    k_cache: Any,
    v_cache: Any,
    indptr: Any,
    length: Any,
    *,
    page_table: Any = None,
    k_scale: Any = None,
    v_scale: Any = None,
    rope: str | None = None,
    cos: Any = None,
    sin: Any = None,
    positions: Any = None,
) -> None:
    """Write a layer's rows of keys and values behind those that a cache holds.

    Row ``indptr[b] + i`` goes to slot ``length[b] + i`` of request b; keys are rotated, and rows
    quantised to the cache's type, on the way.

    Parameters
    ----------
    k, v : array, shape (N, G, D); float32 | float16 | bfloat16
        The rows of all requests, one after the other; views of a fused projection will do.
    k_cache, v_cache : array, shape (P, T, G, D)
        The layer's cache, float32 | float16 | bfloat16 | int8 | float8_e4m3fn, written in place: P
        pages of T tokens, or without `page_table` B requests of T tokens. A cache of shape
        (B, G, S, D) is passed as its view ``.transpose(1, 2)``.
    indptr : array, shape (B + 1,), int32
        Where each request's rows begin, and N.
    length : array, shape (B,), int32
        Tokens that each request has in the cache. It stays as it is: the caller adds the rows when
        all layers have them, or `commit` writes it.
    page_table : array, shape (B, C), int32, optional
        Slot s of request b is slot ``s % T`` of page ``page_table[b, s // T]``.
    k_scale, v_scale : array, shape (P, T, G), float32, optional
        Scales of int8 and float8 caches, written in place: an element is worth its scale times
        the number there.
    rope : {"neox", "gptj"}, optional
        Rotate keys by their position: pairs ``(i, i + R / 2)`` or ``(2 i, 2 i + 1)`` of the first
        R elements of a head.
    cos, sin : array, shape (S, R / 2), float32, optional
        Tables of the rotation by position.
    positions : array, shape (N,), int32, optional
        Position of each row, its slot when left out. Nodes of a tree need it.

    Returns
    -------
    None

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, a slot beyond the cache or a page
        that is not in the table; the message names the argument, and nothing has been written.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    One pass. Arithmetic in float32, rounded once; the same bits on any number of threads and with
    every kernel variant. int8 is symmetric per token and head, ``scale = max|x| / 127``, and so is
    float8_e4m3fn, torch's type of this name, with 448 for 127. Requests must not append to the same
    slots. On CUDA nobody reads the indices before: a row without a slot or a position is passed
    over.

    References
    ----------
    .. [1] Su et al., "RoFormer: enhanced transformer with rotary position embedding", arXiv
       2104.09864, eq. 34.
    .. [2] Kwon et al., "Efficient memory management for large language model serving with
       PagedAttention", arXiv 2309.06180.

    Examples
    --------
    >>> cache = np.zeros((2, 1, 4, 1, 2), np.float32)  # keys and values of one request
    >>> rows = np.ones((2, 1, 2), np.float32)
    >>> indptr, length = np.array([0, 2], np.int32), np.array([1], np.int32)
    >>> fewstep.kv.append(rows, 3 * rows, cache[0], cache[1], indptr, length)
    >>> cache[1, 0, :, 0, 0]
    array([0., 3., 3., 0.], dtype=float32)
    """
    kind = 0
    if rope is not None:
        if rope not in _ROPES:
            raise ValueError(
                f"fewstep.kv.append: 'rope' must be one of neox, gptj or None, got {rope!r}"
            )
        kind = 1 + _ROPES.index(rope)
    _core.kv_append(
        k, v, k_cache, v_cache, indptr, length, page_table, k_scale, v_scale, kind, cos, sin,
        positions,
    )  # fmt: skip


def commit(
    k_cache: Any,
    v_cache: Any,
    path: Any,
    accepted: Any,
    base: Any,
    *,
    k_scale: Any = None,
    v_scale: Any = None,
    page_table: Any = None,
    first: int = 0,
    length: Any = None,
) -> None:
    """Move the accepted rows of a draft block into place, in all layers at once.

    Slot ``base[b] + first + i`` becomes slot ``base[b] + path[b, i]`` for ``i < accepted[b]``.

    Parameters
    ----------
    k_cache, v_cache : array or sequence of arrays, shape (P, T, G, D) each
        The layers' caches, float32 | float16 | bfloat16 | int8 | float8_e4m3fn, written in place;
        or all layers in one array of shape (L, P, T, G, D). See `append`.
    path : array, shape (B, M), int32
        Accepted node ids of each request, strictly increasing, such as `fewstep.tree.verify` gives;
        what follows the accepted ones is not read.
    accepted : array, shape (B,), int32
        How many.
    base : array, shape (B,), int32
        The slot of node 0 of each request's draft block.
    k_scale, v_scale : array or sequence of arrays, shape (P, T, G) each, float32, optional
        Scales of int8 and float8 caches, which move too.
    page_table : array, shape (B, C), int32, optional
        Pages of each request.
    first : int, default 0
        Nodes that stay where they are before the path: 1 where node 0 is a root that is not in it.
    length : array, shape (B,), int32, optional
        Written: ``base + first + accepted``.

    Returns
    -------
    None

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, a path that does not increase, a
        slot beyond the cache or a page that is not in the table; nothing has been written.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    Ids increase along a path, because a child comes after its parent; so no row is overwritten
    before it is read. Only rows that move are touched, each once. On CUDA nobody reads the indices
    before: a row without a slot is passed over, and `accepted` is cut to [0, M].

    References
    ----------
    .. [1] Miao et al., "SpecInfer: accelerating large language model serving with tree-based
       speculative inference and verification", arXiv 2305.09781.

    Examples
    --------
    >>> cache = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    >>> values = cache.copy()
    >>> path = np.array([[0, 2, 5, -1]], np.int32)
    >>> fewstep.kv.commit(cache, values, path, np.array([3], np.int32), np.array([2], np.int32))
    >>> cache.ravel()
    array([0., 1., 2., 4., 7., 5., 6., 7.], dtype=float32)
    """
    _core.kv_commit(
        k_cache, v_cache, path, accepted, base, k_scale, v_scale, page_table, first, length
    )
