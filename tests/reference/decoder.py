# SPDX-License-Identifier: Apache-2.0
"""Reference of ``decoder.run``: a Llama's formulas in float64, on the references of its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention import softmax_product, visible
from reference.kv import turned
from reference.linear import run as linear

Array = NDArray[Any]


def normed(x: Array, weight: Array | None, eps: float) -> Array:
    """Divide by the root mean square of the last dimension (arXiv 1910.07467, eq. 4)."""
    if weight is None:
        return x
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def attend(q: Array, keys: Array, values: Array, seen: Array) -> Array:
    """Return what rows [n, H, D] see of keys and values [L, G, D]."""
    ratio = q.shape[1] // keys.shape[1]
    out = np.zeros_like(q)
    for n in range(len(q)):
        for h in range(q.shape[1]):
            at, g = np.flatnonzero(seen[n]), h // ratio
            logits = keys[at, g] @ q[n, h] / np.sqrt(q.shape[2])
            out[n, h] = softmax_product(logits, values[at, g], None)[0]
    return out


def run(
    x: Any,
    layers: list[dict[str, Any]],
    indptr: Array,
    caches: list[list[tuple[Array, Array]]],
    cos: Array,
    sin: Array,
    heads: tuple[int, int, int],
    batch: dict[str, Any] | None = None,
    eps: float = 1e-6,
) -> tuple[Array, list[list[tuple[Array, Array]]]]:
    """Run rows [N, E] behind what requests have cached: by layer and request, keys and values.

    `layers` hold matrices q, k, v, o, gate, up, down and vectors by the names of
    `fewstep.decoder.Layer`; `heads` are H, G, D; `batch` the options bits, depth and block. Returns
    the rows and the caches with them.
    """
    x, batch = np.asarray(x, np.float64), batch or {}
    H, G, D = heads
    after = []
    for layer, cached in zip(layers, caches, strict=True):
        read = normed(x, layer["norm"], eps)
        q, k, v = (linear(read, layer[n], layer.get(f"{n}_bias")) for n in "qkv")
        q = normed(q.reshape(-1, H, D), layer.get("q_norm"), eps)
        k = normed(k.reshape(-1, G, D), layer.get("k_norm"), eps)
        a, kept = np.zeros((len(x), H, D)), []
        for b, (keys, values) in enumerate(cached):
            rows = np.arange(indptr[b], indptr[b + 1])
            total = len(keys) + len(rows)
            given = {"indptr": indptr, "window": layer.get("window", 0)} | batch
            block = len(rows) if batch.get("block") is None else int(batch["block"][b])
            for i, n in enumerate(rows):
                depth = batch.get("depth")
                at = len(keys) + i if depth is None else total - block + int(depth[n])
                q[n], k[n] = (turned(t[n], cos[at], sin[at], "neox") for t in (q, k))
            seen = visible(given, b, total - block, total)
            kept.append(
                (
                    np.concatenate([keys, k[rows]]),
                    np.concatenate([values, v[rows].reshape(-1, G, D)]),
                )
            )
            a[rows] = attend(q[rows], *kept[-1], seen)
        after.append(kept)
        x = linear(a.reshape(len(x), -1), layer["o"], layer.get("o_bias"), residual=x)
        gated = linear(normed(x, layer["mlp_norm"], eps), layer["gate"], up=layer["up"])
        x = linear(gated, layer["down"], residual=x)
    return x, after


def chain(
    tokens: list[Array],
    embedding: Array,
    head: Array,
    norm: Array,
    layers: list[dict[str, Any]],
    caches: list[list[tuple[Array, Array]]],
    cos: Array,
    sin: Array,
    heads: tuple[int, int, int],
    levels: Array,
    d2t: Array | None = None,
    eps: float = 1e-6,
) -> list[tuple[list[int], list[float]]]:
    """Draft the likeliest tokens behind each request's, and their log-probabilities together.

    Takes what `run` takes, with all requests' tokens and, in place of x, embedding and head.
    """
    found = []
    for b, rows in enumerate(tokens):
        own = [[cached[b]] for cached in caches]
        ids: list[int] = []
        logp: list[float] = []
        new = np.asarray(rows)
        for _ in range(levels[b]):
            indptr = np.array([0, len(new)])
            x, own = run(embedding[new], layers, indptr, own, cos, sin, heads, eps=eps)
            logits = head @ normed(x[-1], norm, eps)
            best = int(logits.argmax())
            logits -= logits[best]
            logp.append((logp[-1] if logp else 0.0) - float(np.log(np.exp(logits).sum())))
            ids.append(best if d2t is None else int(d2t[best]))
            new = np.array(ids[-1:])
        found.append((ids, logp))
    return found
