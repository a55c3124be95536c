# SPDX-License-Identifier: Apache-2.0
"""A model of fused layers from tokens to logits, without the forward pass of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..linear import Packed, kind_index
from ._cache import NAME, PagedRows
from ._fuse import KINDS
from ._layer import FusedLayer, linear
from ._rows import Rows


def fused_layers(model: Any) -> list[FusedLayer] | None:
    """Return the fused layers of a model of which nothing else is out of the ordinary."""
    if model.training or model.config._attn_implementation != NAME:
        return None
    base = model.base_model
    layers = [vars(layer).get("forward") for layer in base._modules["layers"]._modules.values()]
    if not all(type(layer) is FusedLayer and layer.current() for layer in layers):
        return None
    return layers


def is_plain(model: Any) -> bool:
    """Tell whether a model is embedding, layers, norm and packed head, and no more."""
    names = [f"{kind}ForCausalLM" for kind in KINDS]
    if type(model).__name__ not in names or model.base_model is model:
        return False
    parts = {"embed_tokens", "layers", "norm", "rotary_emb"}
    modules = [model, model.base_model, *(model.base_model._modules[p] for p in parts)]
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    return set(model.base_model._modules) == parts and not hooked


def run(
    model: Any,
    layers: list[FusedLayer],
    cache: PagedRows,
    ids: NDArray[np.int64],
    rows: Rows,
    wanted: torch.Tensor | None,
    hidden: bool,
) -> Any:
    """Run rows of tokens; return logits, and with `hidden` what they are made of."""
    base, head = model.base_model, model._modules["lm_head"]
    x = embedded(base._modules["embed_tokens"], ids)
    layers[0].scratch.reach(rows.positions)
    for layer in layers:
        layer.run(x, x, cache.store, rows, rows.requests, rows.positions)
    if wanted is not None:
        x = x[wanted]
    norm = base._modules["norm"]
    packed: Packed | None = getattr(head._parameters["weight"], "packed", None)
    if packed is None:
        logits = head(norm(x))
    else:
        logits = x.new_empty(len(x), packed.shape[0])
        weight = (packed.data, kind_index(packed), packed.group, head.bias)
        given = norm._parameters["weight"].detach(), float(norm.variance_epsilon)
        if len(x):
            workspace = layers[0].scratch.buffers(len(x)).workspace
            linear(x, weight, logits, workspace, norm=given)
    return (logits, norm(x)) if hidden else logits


def embedded(embedding: Any, ids: NDArray[np.int64]) -> torch.Tensor:
    """Return the rows of an embedding, which may be packed with a head that it is tied to."""
    weight = embedding._parameters["weight"]
    packed: Packed | None = getattr(weight, "packed", None)
    if not 0 <= ids.min() <= ids.max() < weight.shape[0]:
        raise IndexError("index out of range in self")  # as torch says
    index = torch.from_numpy(ids)
    if packed is None:
        taken: torch.Tensor = weight.detach().index_select(0, index)
        return taken
    if packed.kind.startswith("int"):
        rows: torch.Tensor = weight.rows(index)
        return rows
    # Panels of 32 rows, each a sequence of steps of 1 or 2 inputs.
    step = 2 if packed.kind == "bfloat16" else 1
    stored = packed.data.view(weight.dtype).view(-(-packed.shape[0] // 32), -1, 32, step)
    panel, place = torch.from_numpy(ids // 32), torch.from_numpy(ids % 32)
    found: torch.Tensor = stored[panel, :, place].reshape(ids.size, -1)
    return found[:, : packed.shape[1]].contiguous()
