# SPDX-License-Identifier: Apache-2.0
"""References of ``tree.attention`` and ``tree.merge``: dense, a row and a head at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def tokens_of(a: dict[str, Any], b: int, g: int, kind: str) -> tuple[Array, int]:
    """Return request b's keys or values [L, D] of KV head g, and how many are its prefix."""
    begin, end = int(a["indptr"][b]), int(a["indptr"][b + 1])
    length, cache = int(a["kv_len"][b]), a[kind]
    rows = []
    for i in range(length):
        page, token = b, i
        if a.get("page_table") is not None:
            page, token = int(a["page_table"][b, i // cache.shape[1]]), i % cache.shape[1]
        row = np.asarray(cache[page, token, g], np.float64)
        if a.get(f"{kind}_scale") is not None:
            row = (row.astype(np.float32) * a[f"{kind}_scale"][page, token, g]).astype(np.float64)
        rows.append(row)
    draft = a.get("draft", "cache")
    if draft == "view":
        rows += [np.asarray(a[f"draft_{kind}"][n, g], np.float64) for n in range(begin, end)]
    prefix = length - block_of(a, b) if draft == "cache" else length
    return np.array(rows).reshape(len(rows), cache.shape[3]), prefix


def block_of(a: dict[str, Any], b: int) -> int:
    """Return how many tokens request b's draft block has."""
    rows = int(a["indptr"][b + 1]) - int(a["indptr"][b])
    return rows if a.get("block") is None else int(a["block"][b])


def depth_of(a: dict[str, Any], n: int, i: int) -> int:
    """Return how far row n, the i-th token of its block, lies behind the prefix."""
    if a.get("depth") is not None:
        return int(a["depth"][n])
    if a.get("bits") is not None:
        return sum(int(word).bit_count() for word in a["bits"][n]) - 1
    return i


def visible(a: dict[str, Any], b: int, prefix: int, keys: int) -> Array:
    """Return which keys each of request b's rows sees, [rows, keys]."""
    begin, end = int(a["indptr"][b]), int(a["indptr"][b + 1])
    earlier = block_of(a, b) - (end - begin)
    depths = [depth_of(a, n, earlier + n - begin) for n in range(begin, end)]
    seen = np.zeros((end - begin, keys), bool)
    for i in range(end - begin):
        for j in range(keys):
            node = j - prefix
            if node >= 0 and a.get("bits") is not None:
                word = int(a["bits"][begin + i, node // 32])
                seen[i, j] = word >> (node % 32) & 1
            else:
                seen[i, j] = node <= earlier + i
        if a.get("window", 0):
            own = prefix + depths[i]
            drafted = np.flatnonzero(seen[i, prefix:]).tolist()
            position = {node: own - len(drafted[at + 1 :]) for at, node in enumerate(drafted)}
            position |= {earlier + row: prefix + depth for row, depth in enumerate(depths)}
            for j in np.flatnonzero(seen[i]):
                seen[i, j] = own - (j if j < prefix else position[j - prefix]) < a["window"]
    return seen


def softmax_product(logits: Array, values: Array, sink: float | None) -> tuple[Array, float]:
    """Return a row's average and the logarithm of its sum of weights, in float64."""
    top = max([*logits, *([] if sink is None else [sink])], default=-np.inf)
    if top == -np.inf:
        return np.zeros(values.shape[1]), -np.inf
    weights = np.exp(logits - top)
    total = weights.sum() + (0.0 if sink is None else np.exp(sink - top))
    return weights @ values / total, float(top + np.log(total))


def attention(*, round_weights: Any = None, plain: bool = False, **a: Any) -> tuple[Array, Array]:
    """Return out and lse in float64, of the arguments of the op.

    `plain` computes in float32 with sums taken one after the other, and `round_weights`, if given,
    rounds the weights: what a computation in the type itself gives, to measure errors by.
    """
    rows, heads, dim = a["q"].shape
    groups = a["k"].shape[2]
    out, lse = np.zeros((rows, heads, dim)), np.full((rows, heads), -np.inf)
    scale, cap = a.get("scale") or 1.0 / np.sqrt(dim), a.get("softcap", 0.0)
    kind = np.float32 if plain else np.float64
    for b in range(len(a["indptr"]) - 1):
        begin, end = int(a["indptr"][b]), int(a["indptr"][b + 1])
        if begin == end:
            continue
        for g in range(groups):
            k, prefix = tokens_of(a, b, g, "k")
            v, _ = tokens_of(a, b, g, "v")
            seen = visible(a, b, prefix, len(k))
            for h in range(g * heads // groups, (g + 1) * heads // groups):
                sink = None if a.get("sinks") is None else float(a["sinks"][h])
                q = np.asarray(a["q"][begin:end, h], kind)
                s = chain(q, k.astype(kind)) if plain else q @ k.T
                s = (s * kind(scale)).astype(kind)
                if cap:
                    s = kind(cap) * np.tanh(s / kind(cap))
                s = np.where(seen, s, -np.inf)
                for i in range(end - begin):
                    average = chain_softmax if plain else softmax_product
                    extra = (round_weights,) if plain else ()
                    out[begin + i, h], lse[begin + i, h] = average(s[i], v, sink, *extra)
    return out, lse


def chain(q: Array, k: Array) -> Array:
    """Return q k^T in float32, dims added one after the other."""
    sums = np.zeros((len(q), len(k)), np.float32)
    for d in range(q.shape[1]):
        sums += q[:, d, None] * k[None, :, d]
    return sums


def chain_softmax(
    logits: Array, values: Array, sink: float | None, round_weights: Any
) -> tuple[Array, float]:
    """Return what `softmax_product` does, in float32, keys added one after the other."""
    top = np.float32(max([*logits, *([] if sink is None else [sink])], default=-np.inf))
    if top == -np.inf:
        return np.zeros(values.shape[1]), -np.inf
    weights = np.exp((logits - top).astype(np.float32))
    total = np.float32(0.0 if sink is None else np.exp(np.float32(sink) - top))
    total += np.cumsum(weights, dtype=np.float32)[-1] if len(weights) else np.float32(0)
    if round_weights is not None:
        weights = round_weights(weights)
    sums = np.zeros(values.shape[1], np.float32)
    for weight, value in zip(weights, values.astype(np.float32), strict=True):
        sums += weight * value
    return (sums / total).astype(np.float64), float(top + np.log(total))


def merge(parts: list[Array], lses: list[Array]) -> tuple[Array, Array]:
    """Return out and lse of disjoint parts, in float64."""
    lse = np.full(lses[0].shape, -np.inf)
    for part in lses:
        lse = np.logaddexp(lse, np.asarray(part, np.float64))
    out = np.zeros(parts[0].shape)
    for part, own in zip(parts, lses, strict=True):
        weight = np.where(own == -np.inf, 0.0, np.exp(own - np.where(np.isinf(lse), 0.0, lse)))
        out += np.where(weight[..., None] > 0, weight[..., None] * np.asarray(part, np.float64), 0)
    return out, lse
