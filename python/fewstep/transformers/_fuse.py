# SPDX-License-Identifier: Apache-2.0
"""Exchange the forward passes of a model's decoder layers for fused ones, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from .._torch_linear import Linear
from ..torch import Swapped, pack_linears
from ._cache import NAME
from ._layer import FusedLayer
from ._scratch import Scratch, Sizes
from ._store import FITTING

KINDS = ("Llama", "Mistral", "Qwen2", "Qwen3")
_ROPES = ("default", "linear", "llama3", "yarn")  # whose tables depend on nothing but positions


@dataclass
class Fused:
    """What `fuse` did to a model.

    Attributes
    ----------
    fused : tuple of str
        Names of the decoder layers whose forward pass is fused, in the model's order.
    skipped : dict of str to str
        Why another one is as it was.
    linears : Swapped
        The linear layers that were packed.
    """

    fused: tuple[str, ...]
    skipped: dict[str, str]
    linears: Swapped
    _model: Any = field(repr=False, default=None)
    _layers: list[Any] = field(repr=False, default_factory=list)
    _attention: str | None = field(repr=False, default=None)

    def undo(self) -> None:
        """Put everything back, the weights bit for bit; calling it again does nothing."""
        while self._layers:
            vars(self._layers.pop()).pop("forward", None)
        if self._attention is not None:
            self._model.set_attn_implementation(self._attention)
            self._attention = None
        self.linears.undo()

    def __str__(self) -> str:
        lines = [f"fused {len(self.fused)} decoder layers", str(self.linears)]
        return "\n".join(lines + [f"left {name}: {why}" for name, why in self.skipped.items()])


def fuse(model: Any, dtype: str | None = None) -> Fused:
    """Run the decoder layers of a Llama-style model in seven calls each, in place.

    A layer stays the same object with the same parameters. Its linear layers are packed as by
    `fewstep.torch.pack_linears`, those of queries, keys and values as one; norms, RoPE, SwiGLU and
    residual sums are parts of the calls. It works in ``model.generate``, best with a `PagedCache`,
    and in a `PagedModel`, which then leaves out the rest of transformers' forward pass, too.

    Parameters
    ----------
    model : PreTrainedModel
        Of Llama, Mistral, Qwen2 or Qwen3, float32 | float16 | bfloat16, on the CPU or, in a build
        with CUDA kernels, a CUDA device; it may move later. Its attention is set to ``"fewstep"``.
    dtype : {"int8", "int4"}, optional
        Quantise the weights of linear layers; kept as they are when left out.

    Returns
    -------
    Fused
        The layers that are fused, those that are not and why, and ``undo()``.

    Raises
    ------
    ValueError
        `dtype` is another.
    TypeError
        `model` is no model of transformers.

    Notes
    -----
    Arithmetic is float32 within a call, and rounded to the model's dtype between calls. Layers
    with hooks, with a forward pass that was replaced before, of other kinds, activations, biases
    or RoPE tables are left. Where a gradient is wanted, in training, with another attention, and on
    a CUDA device for more than 256 rows, a layer runs as before. Hooks that are put on its parts
    later do not run. No layer waits for a CUDA device, so a fused model may be captured.

    Examples
    --------
    >>> import fewstep.transformers, transformers
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
    ...     num_attention_heads=2)
    >>> report = fewstep.transformers.fuse(transformers.LlamaForCausalLM(config).eval())
    >>> report.fused
    ('model.layers.0', 'model.layers.1')
    >>> report.undo()
    """
    fits = isinstance(model, torch.nn.Module) and hasattr(model, "set_attn_implementation")
    if not fits:
        raise TypeError(
            "fewstep.transformers.fuse: 'model' must be a model of transformers, got "
            f"{type(model).__name__}"
        )
    linears = pack_linears(model, dtype)
    found: list[tuple[str, Any]] = [
        (name, module)
        for name, module in model.named_modules()
        if type(module).__name__.endswith("DecoderLayer")
    ]
    rotary = _rotary(model)
    skipped = {name: why for name, module in found if (why := unfit(module, rotary))}
    chosen = [(name, module) for name, module in found if name not in skipped]
    report = Fused(tuple(name for name, _ in chosen), skipped, linears, model)
    scratches: dict[Sizes, Scratch] = {}
    for _, layer in chosen:
        sizes = _sizes(layer)
        first = sizes not in scratches
        if first:
            scratches[sizes] = Scratch(sizes, rotary)
        layer.forward = FusedLayer(layer, scratches[sizes], first)
        report._layers.append(layer)
    if chosen and model.config._attn_implementation != NAME:
        report._attention = model.config._attn_implementation
        model.set_attn_implementation(NAME)
    return report


def _rotary(model: Any) -> Any:
    named = (module for name, module in model.named_modules() if name.endswith("rotary_emb"))
    return next(named, None)


def _sizes(layer: Any) -> Sizes:
    attn, mlp = layer.self_attn, layer.mlp
    dim = attn.head_dim
    return Sizes(
        mlp.down_proj.out_features,
        mlp.down_proj.in_features,
        attn.q_proj.out_features // dim,
        attn.k_proj.out_features // dim,
        dim,
        layer.input_layernorm.weight.dtype,
    )


def unfit(layer: Any, rotary: Any) -> str | None:
    """Return why a decoder layer cannot be fused."""
    kind, home = type(layer).__name__.removesuffix("DecoderLayer"), type(layer).__module__
    if kind not in KINDS or home != f"transformers.models.{kind.lower()}.modeling_{kind.lower()}":
        return f"of type {type(layer).__name__}"
    if isinstance(vars(layer).get("forward"), FusedLayer):
        return "fused already"
    for name, module in layer.named_modules():
        at = f" of {name}" if name else ""
        if "forward" in vars(module):
            return f"its forward{at} was replaced"
        if name and (module._forward_hooks or module._forward_pre_hooks):
            return f"there are hooks{at}"
    return _unfit_parts(layer, rotary)


def _unfit_parts(layer: Any, rotary: Any) -> str | None:
    attn, mlp = layer.self_attn, layer.mlp
    linears = [m for m in (attn, mlp) for m in m.children() if isinstance(m, torch.nn.Linear)]
    plain = [type(m) is Linear and m.kind for m in linears]
    if len(linears) != 7 or not all(plain):
        return "its linear layers are not packed"
    if mlp.gate_proj.bias is not None or mlp.up_proj.bias is not None:
        return "its gate has a bias"
    if not isinstance(mlp.act_fn, torch.nn.SiLU) and type(mlp.act_fn).__name__ != "SiLUActivation":
        return f"its activation is {type(mlp.act_fn).__name__}"
    rope = getattr(rotary, "rope_type", None)
    if rope not in _ROPES:
        return f"its RoPE is {rope}"
    if layer.input_layernorm.weight.dtype not in FITTING:
        return "its dtype is none of float32, float16 and bfloat16"
    dim = attn.head_dim
    if dim % 16 or dim > 256 or attn.num_key_value_groups > 16:
        return f"its heads are of {dim} elements, {attn.num_key_value_groups} to a head of keys"
    return None
