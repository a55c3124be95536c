# SPDX-License-Identifier: Apache-2.0
"""Forward passes of Llama-style decoders, all layers in one call.

Shapes: ``N`` rows of ``B`` requests; ``E`` hidden elements, ``I`` of the MLP; ``H`` query heads of
``D`` elements, ``G`` of keys; ``P`` pages of ``T`` tokens; ``V`` tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fewstep import _core
from fewstep._arrays import empty, shape_of
from fewstep.linear import Packed, check_packed, dtype_name, kind_index

__all__ = ["Chain", "Decoder", "Layer", "chain", "run"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A decoder layer's weights, packed by `fewstep.linear.pack`, and its cache.

    Attributes
    ----------
    q, k, v : Packed
        Projections (H D, E), (G D, E), (G D, E); or `q` of all three together, and no `k` and `v`.
    o : Packed
        (E, H D).
    gate, up, down : Packed
        (I, E), (I, E) of gate's kind, (E, I).
    norm, mlp_norm : array, shape (E,)
        Weights of the RMSNorms before the projections and before the MLP.
    k_cache, v_cache : array, shape (P, T, G, D)
        Of x's dtype, or int8 | float8_e4m3fn.
    k_scale, v_scale : array, shape (P, T, G), float32, optional
        With int8 and float8 caches.
    q_norm, k_norm : array, shape (D,), optional
        Weights of RMSNorms of each head, as Qwen3 has them.
    q_bias, k_bias, v_bias, o_bias : array, optional
        Of the projections.
    eps : float
        Of the RMSNorms.
    window : int
        Positions that a row sees, its own included; 0 for all.
    """

    q: Packed
    k: Packed | None = None
    v: Packed | None = None
    o: Packed
    gate: Packed
    up: Packed
    down: Packed
    norm: Any
    mlp_norm: Any
    k_cache: Any
    v_cache: Any
    k_scale: Any = None
    v_scale: Any = None
    q_norm: Any = None
    k_norm: Any = None
    q_bias: Any = None
    k_bias: Any = None
    v_bias: Any = None
    o_bias: Any = None
    eps: float = 1e-6
    window: int = 0

    def _fields(self) -> tuple[Any, ...]:
        """Return what `_core.Decoder` takes."""
        check_packed("fewstep.decoder.Decoder", "up", self.up)
        norms = (self.norm, self.mlp_norm, self.q_norm, self.k_norm)
        return (
            self.window,
            _weight("q", self.q, self.q_bias), _weight("k", self.k, self.k_bias),
            _weight("v", self.v, self.v_bias), _weight("o", self.o, self.o_bias),
            _weight("gate", self.gate), _weight("down", self.down), self.up.data,
            *(None if norm is None else (norm, self.eps) for norm in norms),
            self.k_cache, self.v_cache, self.k_scale, self.v_scale,
        )  # fmt: skip


class Decoder:
    """Layers with what stands before and behind them, checked once for many calls of `run`.

    Parameters
    ----------
    layers : sequence of Layer
        One or more, of equal sizes.
    heads : int
        H.
    head : Packed, optional
        (V, E), of logits.
    norm : array, shape (E,), optional
        Weight of the RMSNorm before the head, whose `eps` is that of the last layer.
    embedding : Packed or array, shape (n_tokens, E), optional
        Rows that tokens stand for, of x's dtype; float32 where int8 or int4.
    scale : float
        Of attention's logits; 0 for ``1 / sqrt(D)``.
    deterministic : bool, default True
        Attention gives a row the same bits alone and with any others.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        A weight was not made by `fewstep.linear.pack`.

    Notes
    -----
    It reads the memory of what it was given in every call: values may change between them. One
    thread at a time without `workspace`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        heads: int,
        *,
        head: Packed | None = None,
        norm: Any = None,
        embedding: Any = None,
        scale: float = 0.0,
        deterministic: bool = True,
    ) -> None:
        if not layers:
            raise ValueError("fewstep.decoder.Decoder: 'layers' must hold 1 or more, got 0")
        check_packed("fewstep.decoder.Decoder", "gate", layers[0].gate)
        rows: tuple[int, ...] = (0,)
        given: Any = None
        if embedding is not None:
            is_packed = isinstance(embedding, Packed)
            given = _weight("embedding", embedding) if is_packed else (embedding, 0, 0, None)
            shape = shape_of("fewstep.decoder.Decoder", "embedding", embedding)
            rows = embedding.shape if is_packed else shape
        self.n_vocab = 0 if head is None else head.shape[0]
        self.core = _core.Decoder(
            [layer._fields() for layer in layers],
            heads=heads,
            inner=layers[0].gate.shape[0],
            scale=scale,
            deterministic=deterministic,
            head=_weight("head", head),
            vocabulary=self.n_vocab,
            norm=None if norm is None else (norm, layers[-1].eps),
            embedding=given,
            n_tokens=rows[0],
        )


def _weight(name: str, packed: Any, bias: Any = None) -> Any:
    if packed is None:
        return None
    check_packed("fewstep.decoder.Decoder", name, packed)
    return packed.data, kind_index(packed), packed.group, bias


def run(
    decoder: Decoder,
    x: Any,
    indptr: Any,
    length: Any,
    cos: Any,
    sin: Any,
    *,
    tokens: Any = None,
    page_table: Any = None,
    bits: Any = None,
    depth: Any = None,
    block: Any = None,
    rows: Any = None,
    logits: Any = None,
    workspace: Any = None,
    scratch_x: bool = False,
) -> Any:
    """Run rows of tokens through all layers of a decoder, and to logits.

    The same bits as `fewstep.linear.run`, `fewstep.kv.append` and `fewstep.tree.attention` give one
    after the other, in one call.

    Parameters
    ----------
    decoder : Decoder
    x : array, shape (N, E); float32 | float16 | bfloat16
        Hidden states, replaced by those behind the last layer.
    indptr : array, shape (B + 1,), int32
        Rows ``indptr[b]`` to ``indptr[b + 1] - 1`` are those of request b.
    length : array, shape (B,), int32
        Tokens of each request before its rows, which stays as it is.
    cos, sin : array, shape (S, R / 2), float32
        Tables of RoPE, pairs ``(i, i + R / 2)``.
    tokens : array, shape (N,), int64, optional
        Rows of the decoder's embedding, with which x is filled first.
    page_table : array, shape (B, C), int32, optional
        Pages of each request's cache; without it, page b is that of request b.
    bits : array, shape (N, W), uint32 | int32, optional
        Of trees: bit j of a row says that it sees token j of its block. Chains when left out.
    depth : array, shape (N,), int32, optional
        Of trees: positions behind the block's first token; a row's slot when left out.
    block : array, shape (B,), int32, optional
        Of trees: how many of a request's last tokens are its block; its rows when left out.
    rows : array, shape (M,), int64, optional
        The rows whose logits are wanted; all when left out.
    logits : array, shape (M, V), optional
        Written in place and returned; of x's dtype when left out.
    workspace : array, int64, optional
        Scratch; kept by the decoder when left out.
    scratch_x : bool
        What x holds afterwards is of no use: then the last layer runs no rows but those wanted.

    Returns
    -------
    array, shape (M, V)
        Logits; x of a decoder without head.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, before anything is written; the
        message names the argument.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    Arithmetic in float32, rounded to x's dtype after each sum. With a deterministic decoder a
    row's bits depend on nothing but its sequence and, of a tree, on the order of a path's nodes.

    References
    ----------
    .. [1] Touvron et al., "LLaMA", arXiv 2302.13971, sec. 2.2.
    .. [2] "Qwen3 technical report", arXiv 2505.09388, sec. 2 (norms of heads).

    Examples
    --------
    >>> def weight(outputs, inputs):
    ...     return fewstep.linear.pack(np.full((outputs, inputs), 0.01, np.float32))
    >>> keys, values = (np.zeros((1, 8, 1, 16), np.float32) for _ in range(2))
    >>> one = np.ones(16, np.float32)
    >>> layer = fewstep.decoder.Layer(
    ...     q=weight(16, 16), k=weight(16, 16), v=weight(16, 16), o=weight(16, 16),
    ...     gate=weight(32, 16), up=weight(32, 16), down=weight(16, 32), norm=one, mlp_norm=one,
    ...     k_cache=keys, v_cache=values)
    >>> decoder = fewstep.decoder.Decoder([layer], heads=1, head=weight(5, 16), norm=one)
    >>> angle = np.arange(8)[:, None] / 100 ** (np.arange(8) / 8)
    >>> cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    >>> x, ends = np.ones((3, 16), np.float32), np.array([0, 3], np.int32)
    >>> fewstep.decoder.run(decoder, x, ends, np.array([0], np.int32), cos, sin).shape
    (3, 5)
    """
    if logits is None and decoder.n_vocab:
        shape = shape_of(
            "fewstep.decoder.run", "x" if rows is None else "rows", x if rows is None else rows
        )
        logits = empty((*shape[:1], decoder.n_vocab), dtype_name(x), x)
    decoder.core.run(
        scratch_x,
        (tokens, indptr, length, page_table, cos, sin, bits, depth, block, rows),
        (x, logits, workspace),
    )
    return x if logits is None else logits


class Chain(NamedTuple):
    """What `chain` drafted.

    Attributes
    ----------
    ids : array, shape (B, K), int32
        Tokens of each request's chain, -1 behind the last.
    logp : array, shape (B, K), float32
        Log-probability of the chain up to each of them, -inf behind the last.
    """

    ids: Any
    logp: Any


def chain(
    decoder: Decoder,
    tokens: Any,
    indptr: Any,
    length: Any,
    cos: Any,
    sin: Any,
    *,
    levels: Any,
    least: float = 0.0,
    page_table: Any = None,
    d2t: Any = None,
    ids: Any = None,
    logp: Any = None,
    workspace: Any = None,
) -> Chain:
    """Draft the chain of likeliest tokens behind each request's rows.

    A pass of the rows, then one of a row a request for each further token: what `run` and
    `fewstep.tree.expand` of width 1 give in turns, with the same bits, in one call. It is the
    drafting loop of speculative decoding [1]_ at temperature 0.

    Parameters
    ----------
    decoder : Decoder
        With embedding and head.
    tokens : array, shape (N,), int64
        Of all requests' rows, each of which has one or more.
    indptr : array, shape (B + 1,), int32
        Rows ``indptr[b]`` to ``indptr[b + 1] - 1`` are those of request b.
    length : array, shape (B,), int32
        Tokens of each request before its rows, which stays as it is.
    cos, sin : array, shape (S, R / 2), float32
        Tables of RoPE, pairs ``(i, i + R / 2)``.
    levels : array, shape (B,), int32
        How many tokens to draft for each request, 1 to K.
    least : float
        All chains end where the probabilities of those that would go on sum to this or less.
    page_table : array, shape (B, C), int32, optional
        Pages of each request's cache; without it, page b is that of request b.
    d2t : array, shape (V,), int32, optional
        Tokens that the logits' columns stand for; their numbers when left out.
    ids : array, shape (B, K), int32, optional
        Written in place; K is the most of `levels` when left out.
    logp : array, shape (B, K), float32, optional
        Written in place.
    workspace : array, int64, optional
        Scratch; kept by the decoder when left out.

    Returns
    -------
    Chain
        ``ids``, ``logp``. Keys and values of the rows and of all drafted tokens but a request's
        last are in the cache then.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, before anything is written; the
        message names the argument.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    Of equally likely tokens the first. A chain ends, too, where logits are NaN or +inf.

    References
    ----------
    .. [1] Leviathan et al., arXiv 2211.17192, alg. 1.

    Examples
    --------
    >>> def weight(outputs, inputs):
    ...     return fewstep.linear.pack(np.zeros((outputs, inputs), np.float32))
    >>> keys, values = (np.zeros((1, 8, 1, 16), np.float32) for _ in range(2))
    >>> one, small = np.ones(16, np.float32), weight(16, 16)
    >>> layer = fewstep.decoder.Layer(
    ...     q=small, k=small, v=small, o=small, gate=small, up=small, down=small, norm=one,
    ...     mlp_norm=one, k_cache=keys, v_cache=values)
    >>> after = np.roll(np.eye(16, dtype=np.float32), 1, axis=0)  # token t is followed by t + 1
    >>> decoder = fewstep.decoder.Decoder(
    ...     [layer], heads=1, head=fewstep.linear.pack(after), norm=one,
    ...     embedding=np.eye(16, dtype=np.float32))
    >>> turn = np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32)
    >>> ends, length = np.array([0, 2], np.int32), np.array([0], np.int32)
    >>> tokens, levels = np.array([4, 5]), np.array([3], np.int32)
    >>> fewstep.decoder.chain(decoder, tokens, ends, length, *turn, levels=levels).ids
    array([[6, 7, 8]], dtype=int32)
    """
    if ids is None:
        most = max([1, *np.asarray(levels).ravel().tolist()])
        ids = empty((len(length), most), "int32", length)
    if logp is None:
        logp = empty(shape_of("fewstep.decoder.chain", "ids", ids), "float32", length)
    decoder.core.chain(
        least, (tokens, indptr, length, page_table, cos, sin, levels, d2t), (ids, logp, workspace)
    )
    return Chain(ids, logp)
