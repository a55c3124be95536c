# SPDX-License-Identifier: Apache-2.0
"""References of the linear family: quantisation by its definition, products in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bfloat16(x: Any) -> NDArray[np.float32]:
    """Round to bfloat16, ties to even; finite numbers."""
    word = np.asarray(x, np.float32).view(np.uint32)
    word = (word + 0x7FFF + (word >> 16 & 1)) & np.uint32(0xFFFF0000)
    return word.view(np.float32)


def pack(weight: Any, kind: str, group: int = 32) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the integers [O, I] of a quantised kind and the scale of each of them [O, I]."""
    w = np.asarray(weight, np.float32)
    if kind == "int8":
        scale = np.abs(w).max(1, keepdims=True) / np.float32(127)
        low, high = -127, 127
        scale = np.broadcast_to(scale, w.shape)
    else:
        scale = np.empty_like(w)
        for i in range(0, w.shape[1], group):
            part = w[:, i : i + group]
            index = np.abs(part).argmax(1)[:, None]
            scale[:, i : i + group] = bfloat16(np.take_along_axis(part, index, 1) / np.float32(-8))
        low, high = -8, 7
    q = np.divide(w, scale, out=np.zeros_like(w), where=scale != 0)
    return np.clip(np.rint(q), low, high).astype(np.int8), scale


def unpack(q: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weight that the integers stand for."""
    return scale * q.astype(np.float32)


def run(
    x: Any,
    weight: Any,
    bias: Any = None,
    up: Any = None,
    residual: Any = None,
    norm: Any = None,
    norm_eps: float = 1e-6,
) -> NDArray[np.float64]:
    """Apply the layer in float64."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    if norm is not None:
        x = x / np.sqrt((x * x).mean(1, keepdims=True) + norm_eps) * norm
    y = x @ weight.T
    if bias is not None:
        y = y + bias
    if up is not None:
        y = y / (1 + np.exp(-y)) * (x @ np.asarray(up, np.float64).T)
    if residual is not None:
        y = y + residual
    return y
