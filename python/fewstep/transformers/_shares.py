# SPDX-License-Identifier: Apache-2.0
"""Models that share another one's weights: fewer layers, or fewer tokens in the head."""

from __future__ import annotations

import copy
from typing import Any

import torch


def sharing(model: Any, layers: int | None, vocabulary: torch.Tensor | None) -> Any:
    """Return a model with the first `layers` alone, or with a head of some tokens alone.

    All modules but those that differ are the given model's own.
    """
    shared = _copied(model)
    if layers is not None:
        base = _copied(model.base_model)
        name, stack = layer_stack(model)
        base._modules[name] = torch.nn.ModuleList(list(stack)[:layers])
        base.config = copy.copy(base.config)
        base.config.num_hidden_layers = layers
        shared._modules[model.base_model_prefix] = base
    if vocabulary is not None:
        head = model.get_output_embeddings()
        name = next(n for n, m in model._modules.items() if m is head)
        shared._modules[name] = subset(head, vocabulary)
    return shared


def _copied(module: Any) -> Any:
    """Return a module that holds the same modules in a dictionary of its own."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


def layer_stack(model: Any) -> tuple[str, Any]:
    """Return the list of a model's decoder layers and its name in the base model."""
    wanted = model.base_model.config.get_text_config(decoder=True).num_hidden_layers
    for name, module in model.base_model.named_children():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return name, module
    raise ValueError(
        "fewstep.transformers.PagedModel: 'layers' must be None for a model without a list of "
        f"decoder layers, got one of type {type(model).__name__}"
    )


def subset(head: Any, vocabulary: torch.Tensor) -> torch.nn.Linear:
    """Return a head of some tokens."""
    made = torch.nn.Linear(head.in_features, len(vocabulary), head.bias is not None, device="meta")
    made.weight = torch.nn.Parameter(_rows(head.weight, vocabulary), requires_grad=False)
    if head.bias is not None:
        made.bias = torch.nn.Parameter(head.bias.detach()[vocabulary], requires_grad=False)
    return made


def _rows(weight: Any, index: torch.Tensor) -> torch.Tensor:
    """Return rows of a weight, which may be packed."""
    rows = getattr(weight, "rows", None)
    taken: torch.Tensor = rows(index) if rows is not None else weight.detach()[index]
    return taken
