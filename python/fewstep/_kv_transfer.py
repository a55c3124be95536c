# SPDX-License-Identifier: Apache-2.0
"""Tokens of a KV cache as a message; `fewstep.kv` re-exports them."""

from __future__ import annotations

from typing import Any

from fewstep import _core
from fewstep._arrays import empty


def export_tokens(
    k_cache: Any,
    v_cache: Any,
    begin: int,
    end: int,
    *,
    row: int = 0,
    first_layer: int = 0,
    k_scale: Any = None,
    v_scale: Any = None,
    page_table: Any = None,
    out: Any = None,
) -> Any:
    """Write a request's tokens, in the given layers, as a message for another process or a file.

    Parameters
    ----------
    k_cache, v_cache : array or sequence of arrays, shape (P, T, G, D) each
        Caches of one or more layers, float32 | float16 | bfloat16 | int8 | float8_e4m3fn; or all
        layers in one array of shape (L, P, T, G, D). See `append`.
    begin, end : int
        Slots of the tokens.
    row : int, default 0
        The request.
    first_layer : int, default 0
        Number of the first of these layers, which `import_tokens` compares.
    k_scale, v_scale : array or sequence of arrays, shape (P, T, G) each, float32, optional
        Scales of int8 and float8 caches.
    page_table : array, shape (B, C), int32, optional
        Pages of each request.
    out : array, shape (N,), uint8, optional
        Written in place and returned.

    Returns
    -------
    array, shape (N,), uint8
        `out`, or a new array of the caches' kind: a header of 64 bytes, and each layer's keys and
        values (and scales).

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, slots beyond the cache or a page
        that is not in the table; nothing has been written.

    Notes
    -----
    The message does not tell of layouts and pages: it can be imported into a cache of any. The
    header has a version, every size, and a checksum of the whole; ``fewstep/kv.h`` describes it.
    Layers in parts of their own can be sent while later ones are computed [1]_.

    On CUDA the message is in device memory, to be sent from there or copied. `out` must begin at a
    multiple of 8 bytes there, as what torch allocates does; nobody reads `page_table` before, and
    slots without a page are zeros.

    References
    ----------
    .. [1] Patel et al., "Splitwise: efficient generative LLM inference using phase splitting",
       arXiv 2311.18677, sec. 4.2.

    Examples
    --------
    >>> cache = np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)
    >>> message = fewstep.kv.export_tokens(cache, -cache, 1, 3)
    >>> message.size
    80
    >>> message[64:].view(np.float32)
    array([ 1.,  2., -1., -2.], dtype=float32)
    """
    if out is None:
        first = k_cache[0] if isinstance(k_cache, (list, tuple)) and k_cache else k_cache
        shape = tuple(getattr(first, "shape", ()))
        if len(shape) not in (4, 5):
            raise ValueError(
                "fewstep.kv.export_tokens: 'k_cache' must be arrays of shape [P, T, G, D] or one "
                f"of [L, P, T, G, D], got {list(shape)}"
            )
        layers = shape[0] if len(shape) == 5 else 1
        if isinstance(k_cache, (list, tuple)):
            layers = len(k_cache)
        bits = 8 * first.dtype.itemsize
        heads, head_dim = shape[-2:]
        size = _core.kv_export_bytes(layers, max(0, end - begin), heads, head_dim, bits)
        out = empty((size,), "uint8", first)
    _core.kv_export_tokens(
        k_cache, v_cache, begin, end, row, first_layer, k_scale, v_scale, page_table, out
    )
    return out


def import_tokens(
    data: Any,
    k_cache: Any,
    v_cache: Any,
    begin: int,
    *,
    row: int = 0,
    first_layer: int = 0,
    k_scale: Any = None,
    v_scale: Any = None,
    page_table: Any = None,
    status: Any = None,
) -> int:
    """Put a message's tokens into a request's slots.

    Parameters
    ----------
    data : array, shape (N,), uint8
        What `export_tokens` made; a view of a received buffer will do.
    k_cache, v_cache : array or sequence of arrays, shape (P, T, G, D) each
        Caches of the message's layers, written in place; see `export_tokens`.
    begin : int
        Slot of the first token.
    row : int, default 0
        The request.
    first_layer : int, default 0
        Number of the first of these layers.
    k_scale, v_scale : array or sequence of arrays, shape (P, T, G) each, float32, optional
        Scales of int8 and float8 caches, written in place.
    page_table : array, shape (B, C), int32, optional
        Pages of each request.
    status : array, shape (2,), int64, optional
        Where to write, on CUDA, what became of the message; see Notes.

    Returns
    -------
    int
        The number of tokens.

    Raises
    ------
    ValueError
        A message that is damaged or not of such caches, by the header's field; slots beyond the
        cache, or another argument that is not as described. No cache has been written.

    Notes
    -----
    Size, header and checksum are compared before the first row is written. On CUDA the kernel does:
    ``status[0]`` is 0 where the tokens are there, else the number of the header's first wrong byte,
    from 1 on, or 57 for the checksum. With `status` given nothing waits for the device and the
    caller is to look at it; without, this function does. `data` must begin at a multiple of 8
    bytes there, and slots without a page are passed over.

    Examples
    --------
    >>> cache = np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)
    >>> message = fewstep.kv.export_tokens(cache, -cache, 1, 3)
    >>> other = np.zeros((2, 1, 4, 1, 1), np.float32)
    >>> fewstep.kv.import_tokens(message, other[0], other[1], 0)
    2
    >>> other[0].ravel()
    array([1., 2., 0., 0.], dtype=float32)
    """
    own = empty((2,), "int64", data) if status is None else status
    tokens = _core.kv_import_tokens(
        data, k_cache, v_cache, begin, row, first_layer, k_scale, v_scale, page_table, own
    )
    if status is None and (wrong := int(own[0])) != 0:
        raise ValueError(
            "fewstep_kv_import_tokens: 'data' must have the header and the checksum of a message "
            f"of these caches, got another byte {wrong - 1}"
        )
    return tokens
