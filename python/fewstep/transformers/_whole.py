# SPDX-License-Identifier: Apache-2.0
"""A model of fused layers from tokens to logits, without the forward pass of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._cache import NAME, PagedRows
from ._fuse import KINDS
from ._layer import FusedLayer, linear, weight_of
from ._rows import Rows


def fused_layers(model: Any) -> list[FusedLayer] | None:
    """Return the fused layers of a model of which nothing else is out of the ordinary."""
    packed = hasattr(model._modules["lm_head"]._parameters["weight"], "packed")
    if model.training or not packed or model.config._attn_implementation != NAME:
        return None
    base = model.base_model
    layers = [vars(layer).get("forward") for layer in base._modules["layers"]._modules.values()]
    if not all(type(layer) is FusedLayer and layer.current() for layer in layers):
        return None
    return layers


def is_plain(model: Any) -> bool:
    """Tell whether a model is embedding, layers, norm and head, and no more."""
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
    weight = base._modules["embed_tokens"]._parameters["weight"]
    index, packed = torch.from_numpy(ids), hasattr(weight, "packed")
    x = weight.rows(index) if packed else torch.nn.functional.embedding(index, weight.detach())
    layers[0].scratch.reach(rows.positions)
    for layer in layers:
        layer.run(x, x, cache.store, rows, rows.requests, rows.positions)
    if wanted is not None:
        x = x[wanted]
    norm = base._modules["norm"]
    given = norm._parameters["weight"].detach(), float(norm.variance_epsilon)
    logits = x.new_empty(x.size(0), head.out_features)
    if x.size(0):
        workspace = layers[0].scratch.buffers(x.size(0)).workspace
        linear(x, weight_of(head), logits, workspace, norm=given)
    return (logits, norm(x)) if hidden else logits
