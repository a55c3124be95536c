# SPDX-License-Identifier: Apache-2.0
"""Whole ranges of a KV cache: truncate, gather, copy pages; `fewstep.kv` re-exports them."""

from __future__ import annotations

from typing import Any

from fewstep import _core


def truncate(length: Any, kept: Any) -> None:
    """Take back tokens of each request: ``length[b] = kept[b]``.

    Parameters
    ----------
    length : array, shape (B,), int32
        Tokens of each request, written in place.
    kept : array, shape (B,), int32
        How many stay, at most `length`.

    Returns
    -------
    None

    Raises
    ------
    ValueError
        A shape or dtype that is not as described, or ``kept[b]`` outside of ``[0, length[b]]``;
        nothing has been written.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    The rows stay in the cache until others are written over them. Of a `Pool`, `Pool.truncate`
    gives up pages too. On CUDA nobody reads `kept` before: a length stays that it would break.

    Examples
    --------
    >>> length = np.array([7, 5], np.int32)
    >>> fewstep.kv.truncate(length, np.array([7, 2], np.int32))
    >>> length
    array([7, 2], dtype=int32)
    """
    _core.kv_truncate(length, kept)


def gather(
    k_cache: Any,
    v_cache: Any,
    index: Any,
    count: Any,
    *,
    k_scale: Any = None,
    v_scale: Any = None,
    page_table: Any = None,
) -> None:
    """Keep the listed tokens of each request and close the gaps, in place.

    Slot i becomes slot ``index[b, i]`` for ``i < count[b]``.

    Parameters
    ----------
    k_cache, v_cache : array or sequence of arrays, shape (P, T, G, D) each
        The layers' caches, float32 | float16 | bfloat16 | int8 | float8_e4m3fn, written in place;
        or all layers in one array of shape (L, P, T, G, D). See `append`.
    index : array, shape (B, M) or (L, B, M), int32
        Slots to keep, strictly increasing: the same for all layers, or each layer's own.
    count : array, shape (B,) or (L, B), int32
        How many; entries of `index` behind them are not read.
    k_scale, v_scale : array or sequence of arrays, shape (P, T, G) each, float32, optional
        Scales of int8 and float8 caches, which move too.
    page_table : array, shape (B, C), int32, optional
        Pages of each request.

    Returns
    -------
    None

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, entries that do not increase, a
        slot beyond the cache or a page that is not in the table; nothing has been written.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    Pruning as LazyLLM [1]_ has it, layer by layer. Rows before the first gap are not touched. On
    CUDA nobody reads the indices before: a row without a slot is passed over.

    References
    ----------
    .. [1] Fu et al., "LazyLLM: dynamic token pruning for efficient long context LLM inference",
       arXiv 2407.14057.

    Examples
    --------
    >>> cache = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1)
    >>> index, count = np.array([[0, 3, 4]], np.int32), np.array([3], np.int32)
    >>> fewstep.kv.gather(cache, cache.copy(), index, count)
    >>> cache.ravel()
    array([0., 3., 4., 3., 4.], dtype=float32)
    """
    _core.kv_gather(k_cache, v_cache, index, count, k_scale, v_scale, page_table)


def copy_pages(
    k_cache: Any,
    v_cache: Any,
    source: Any,
    target: Any,
    *,
    k_scale: Any = None,
    v_scale: Any = None,
) -> None:
    """Copy whole pages in all layers, as writing to a shared page needs it.

    Page ``target[n]`` becomes page ``source[n]``, in order.

    Parameters
    ----------
    k_cache, v_cache : array or sequence of arrays, shape (P, T, G, D) each
        The layers' caches, float32 | float16 | bfloat16 | int8 | float8_e4m3fn, written in place;
        or all layers in one array of shape (L, P, T, G, D). See `append`.
    source, target : array, shape (N,), int32
        Pages, such as `Pool.extend` gives; a pair whose source is -1 is passed over.
    k_scale, v_scale : array or sequence of arrays, shape (P, T, G) each, float32, optional
        Scales of int8 and float8 caches, which are copied too.

    Returns
    -------
    None

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, a page that the caches do not
        have or that is copied onto itself; nothing has been written.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    Copy-on-write [1]_: sequences share pages until one of them writes. On CUDA nobody reads the
    indices before: a pair without such pages is passed over.

    References
    ----------
    .. [1] Kwon et al., "Efficient memory management for large language model serving with
       PagedAttention", arXiv 2309.06180, sec. 4.4.

    Examples
    --------
    >>> cache = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    >>> source, target = np.array([2], np.int32), np.array([0], np.int32)
    >>> fewstep.kv.copy_pages(cache, cache.copy(), source, target)
    >>> cache.ravel()
    array([2., 1., 2.], dtype=float32)
    """
    _core.kv_copy_pages(k_cache, v_cache, source, target, k_scale, v_scale)
