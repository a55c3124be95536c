# SPDX-License-Identifier: Apache-2.0
"""A model of fused layers from tokens to logits in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from ..linear import kind_index
from ._cache import NAME
from ._fuse import KINDS
from ._layer import FusedLayer, weight_of
from ._scratch import BLOCK, Scratch, Sizes
from ._store import Store

_ATTENTION = "_attn_implementation_internal"  # a config's properties take a microsecond each


def fused_layers(model: Any) -> list[FusedLayer] | None:
    """Return the fused layers of a model on the CPU that has nothing else out of the ordinary."""
    packed = hasattr(model._modules["lm_head"]._parameters["weight"], "packed")
    if model.training or not packed or model.config._attn_implementation != NAME:
        return None
    base = model.base_model
    layers = [vars(layer).get("forward") for layer in base._modules["layers"]._modules.values()]
    if not all(type(layer) is FusedLayer and layer.current() and layer.on_cpu for layer in layers):
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


class Whole:
    """A model and its cache as `_core.Decoder`, made anew where weights are exchanged."""

    def __init__(self, model: Any, store: Store) -> None:
        base = model.base_model
        self.model, self.store = model, store
        self.norm: Any = base._modules["norm"]
        self._layers = [vars(layer) for layer in base._modules["layers"]._modules.values()]
        modules = (self.norm, base._modules["embed_tokens"], model._modules["lm_head"])
        self._parameters = [module._parameters for module in modules]
        self._decoder: Any = None
        self._fused: list[FusedLayer] = []
        self._config: Any = None
        self._flat = torch.empty(0, 0)  # hidden states of a call, and the next
        self._x: dict[int, torch.Tensor] = {}  # its first rows, by their number

    def ready(self) -> bool:
        """Prepare the model for `run`; False where it has to run as transformers has it."""
        if self._decoder is not None and self._is_same():
            return True
        self._decoder = None
        fused = fused_layers(self.model)
        if not fused or any(layer.scratch is not fused[0].scratch for layer in fused):
            return False
        self._fused, self._config = fused, self.model.config
        self._settings = vars(self._config)
        others: tuple[list[Any], list[Any]] = [], []
        for parameters in self._parameters:
            others[hasattr(parameters["weight"], "packed")].append(parameters)
        self._plain, self._packed = others
        self._packed += [layer.down_parameters for layer in fused]
        self._witnesses = [parameters["weight"].packed for parameters in self._packed]
        self._held = self._addresses()
        self._decoder = self._made()
        return True

    def _addresses(self) -> list[int]:
        return [parameters["weight"].data_ptr() for parameters in self._plain]

    def _is_same(self) -> bool:
        """Tell whether the decoder's weights still are the model's."""
        model = self.model
        if model.training or model.config is not self._config:
            return False
        try:  # in C++ what loops over layers: this stands before every call
            return (
                self._settings[_ATTENTION] == NAME
                and _core.have_same(self._packed, "weight", "packed", self._witnesses)
                and _core.have_same(self._layers, "forward", None, self._fused)
                and self._addresses() == self._held
            )
        except (AttributeError, KeyError, RuntimeError):  # taken out again, or packed since
            return False

    def _made(self) -> Any:
        sizes, first = self._fused[0].scratch.sizes, self._fused[0]
        head = self.model._modules["lm_head"]
        self._vocabulary = head.out_features
        self._flat, self._x = torch.empty(0, sizes.hidden, dtype=sizes.dtype), {}
        embedding = self._parameters[1]["weight"]
        packed = getattr(embedding, "packed", None)
        given: Any = (embedding.detach(), 0, 0, None)
        if packed is not None:
            given = (packed.data, kind_index(packed), packed.group, None)
        return _core.Decoder(
            [layer.fields(self.store) for layer in self._fused],
            heads=sizes.heads,
            inner=sizes.inner,
            scale=first.options["scale"],
            deterministic=self.store.deterministic,
            head=weight_of(head),
            vocabulary=self._vocabulary,
            norm=(self.norm.weight.detach(), float(self.norm.variance_epsilon)),
            embedding=given,
            n_tokens=embedding.shape[0],
        )

    def run(
        self,
        tokens: NDArray[np.int64],
        indptr: NDArray[np.int32],
        length: NDArray[np.int32],
        table: NDArray[np.int32],
        bits: NDArray[Any] | None,
        depth: NDArray[np.int32] | None,
        block: NDArray[np.int32] | None,
        rows: NDArray[np.int64] | None,
        longest: int,
        hidden: bool,
    ) -> Any:
        """Run rows of tokens, the positions of which are below `longest`.

        Returns logits, and with `hidden` what they are made of.
        """
        scratch = self._turning(longest)
        sizes = scratch.sizes
        n = len(tokens)
        count = n if rows is None else len(rows)
        x = self._x.get(n)
        if x is None:
            x = self._room(n, sizes)
        logits = torch.empty(count, self._vocabulary, dtype=sizes.dtype)
        self._decoder.run(
            not hidden,
            (
                tokens, indptr, length, table, scratch.cos, scratch.sin, bits, depth, block, rows,
            ),
            (x, logits, None),
        )  # fmt: skip
        if not hidden:
            return logits
        with torch.no_grad():
            return logits, self.norm(x if rows is None else x[torch.from_numpy(rows)])

    def _room(self, n: int, sizes: Sizes) -> torch.Tensor:
        """Return memory for the hidden states of n rows, kept where they are not many."""
        if n > BLOCK:
            return torch.empty(n, sizes.hidden, dtype=sizes.dtype)
        if n > self._flat.shape[0]:
            self._flat, self._x = torch.empty(n, sizes.hidden, dtype=sizes.dtype), {}
        x = self._x[n] = self._flat[:n]
        return x

    def chain(
        self,
        tokens: NDArray[np.int64],
        indptr: NDArray[np.int32],
        length: NDArray[np.int32],
        table: NDArray[np.int32],
        levels: NDArray[np.int32],
        least: float,
        d2t: NDArray[np.int32] | None,
        longest: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Draft the likeliest chains behind rows."""
        scratch = self._turning(longest)
        shape = len(levels), max(levels.tolist())
        ids, logp = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self._decoder.chain(
            least, (tokens, indptr, length, table, scratch.cos, scratch.sin, levels, d2t),
            (ids, logp, None),
        )  # fmt: skip
        return ids, logp

    def _turning(self, longest: int) -> Scratch:
        """Return what layers share, with RoPE's tables for positions below `longest`."""
        scratch: Scratch = self._fused[0].scratch
        if longest > scratch.reach:
            scratch.grow(longest)
        return scratch
