# SPDX-License-Identifier: Apache-2.0
"""A decoder layer of a Llama-style model in seven calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .. import _core
from ..kv import append
from ..linear import Packed, aligned, kind_index
from ._attention import FIELDS, attention
from ._cache import PagedRows
from ._rows import Requests, Rows
from ._scratch import BLOCK, Buffers, Scratch

Weight = tuple[torch.Tensor, int, int, torch.Tensor | None]  # octets, kind, group, bias


class FusedLayer:
    """The forward pass of a decoder layer, which it takes the place of.

    The projections of queries, keys and values are one call with the RMSNorm before them; keys are
    rotated on their way into the cache; gate, up, SwiGLU and the norm before them are one call.
    Where a gradient is wanted, while training, with another attention than ``"fewstep"``, and for
    many rows on a GPU, the layer's own forward pass runs. `first` is the first one of a pass that
    has this scratch.
    """

    def __init__(self, layer: Any, scratch: Scratch, first: bool) -> None:
        self.layer, self.scratch, self.first = layer, scratch, first
        self.index: int = layer.self_attn.layer_idx
        self.config = layer.self_attn.config
        window = getattr(layer.self_attn, "sliding_window", None)
        if type(layer).__name__.startswith("Mistral"):
            window = self.config.sliding_window
        self.options = {"scale": layer.self_attn.scaling, "window": window or 0}
        self.down_parameters: dict[str, Any] = layer.mlp.down_proj._parameters
        self.whole = _joined(_linears(layer)[:3])
        self._capture()

    def _capture(self) -> None:
        """Take the weights as they are now."""
        layer = self.layer
        attn, mlp = layer.self_attn, layer.mlp
        self.witness = mlp.down_proj.weight.packed
        self.on_cpu: bool = self.witness.data.is_cpu
        self.norms = tuple(
            (norm.weight.detach(), float(norm.variance_epsilon))
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        norms = [norm for name in ("q_norm", "k_norm") if (norm := getattr(attn, name, None))]
        self.head_norms = [(norm.weight.detach(), float(norm.variance_epsilon)) for norm in norms]
        q, k, v, o, gate, _, down = _linears(layer)
        self.projections = [_whole(q)] if self.whole else [weight_of(part) for part in (q, k, v)]
        self.o, self.gate, self.down = weight_of(o), weight_of(gate), weight_of(down)
        self.up = mlp.up_proj.weight.packed.data

    def fields(self, store: Any) -> tuple[Any, ...]:
        """Return the layer with its cache as `_core.Decoder` takes it."""
        sizes = self.scratch.sizes
        q, k, v = self.projections if not self.whole else (*self.projections, None, None)
        like = torch.empty(0, sizes.groups, sizes.dim, dtype=sizes.dtype)
        return (
            self.options["window"], q, k, v, self.o, self.gate, self.down, self.up, *self.norms,
            *(self.head_norms or (None, None)), *store.caches(self.index, like),
        )  # fmt: skip

    def current(self) -> bool:
        """Tell whether the weights fit, and take them anew where they were exchanged or moved."""
        weight = self.down_parameters["weight"]
        packed = getattr(weight, "packed", None)
        if packed is not self.witness:
            if packed is None or weight.dtype != self.scratch.sizes.dtype:
                return False
            self.whole = _joined(_linears(self.layer)[:3])
            self._capture()
        return True

    def __call__(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run the layer within the model of transformers."""
        cache = past_key_values if cache is None else cache
        if position_ids is None or not self._runs(hidden_states, position_ids):
            own: Any = type(self.layer).forward
            result: torch.Tensor = own(
                self.layer, hidden_states, attention_mask=attention_mask,
                position_ids=position_ids, cache=cache, **kwargs,
            )  # fmt: skip
            return result
        batch, count, width = hidden_states.shape
        x = hidden_states.reshape(batch * count, width)
        out = torch.empty_like(x)
        positions = self.scratch.positions
        if isinstance(cache, PagedRows) and not _is_dense(attention_mask):
            first = None
            if attention_mask is not None:
                first = attention_mask[:, 0, 0, 0].tolist()
            rows = cache.begin(self.index, x, batch, count)
            self.run(x, out, cache.store, rows, cache.requests(first), positions)
        else:
            self._run_elsewhere(x, out, attention_mask, cache, positions, hidden_states.shape)
        return out.view(batch, count, width)

    def _runs(self, x: torch.Tensor, ids: torch.Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and not self.layer.training
            and x.dtype == self.scratch.sizes.dtype
            and not torch.compiler.is_compiling()
            and self.scratch.begin(ids, x.shape[0], self.config, anew=self.first)
            and self.current()
            and x.is_cpu is self.on_cpu
        )

    def run(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        store: Any,
        rows: Rows,
        requests: Requests,
        positions: torch.Tensor,
    ) -> None:
        """Run rows x [N, E] with keys and values in pages; `out` may be x."""
        scratch = self.scratch
        b = scratch.buffers(x.size(0))
        self._project(x, b)
        q, k = self._normalised(b)
        store.append(
            self.index, k, b.v, rows, rope="neox", cos=scratch.cos, sin=scratch.sin,
            positions=positions,
        )  # fmt: skip
        self._turn(q, b, positions)
        if requests.index is None:
            store.attend(self.index, b.turned_q, requests, b.attended, **self.options)
        else:
            some = b.turned_q[requests.index]
            seen = store.attend(self.index, some, requests, torch.empty_like(some), **self.options)
            b.attended.zero_()
            b.attended[requests.index] = seen
        self._finish(x, out, b)

    def _run_elsewhere(
        self, x: Any, out: Any, mask: Any, cache: Any, positions: torch.Tensor, shape: Any
    ) -> None:
        """Run rows whose keys and values go to another cache, or to none."""
        batch, count = shape[:2]
        scratch = self.scratch
        b = scratch.buffers(x.size(0))
        self._project(x, b)
        q, k = self._normalised(b)
        self._turn(q, b, positions)
        keys = k.new_empty(1, *k.shape)
        values = torch.empty_like(keys)
        append(
            k, b.v, keys, values, b.indptr, b.zero, rope="neox", cos=scratch.cos, sin=scratch.sin,
            positions=positions,
        )  # fmt: skip
        query, keys, values = (
            t.view(batch, count, *t.shape[2:]).transpose(1, 2) for t in (b.turned, keys, values)
        )
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)
        options = {"scaling": self.options["scale"], "sliding_window": self.options["window"]}
        seen, _ = attention(self.layer.self_attn, query, keys, values, mask, **options)
        b.attended.copy_(seen.view(b.attended.shape))
        self._finish(x, out, b)

    def _project(self, x: torch.Tensor, b: Buffers) -> None:
        if self.whole:
            linear(x, self.projections[0], b.qkv, b.workspace, norm=self.norms[0])
            return
        for part, weight in zip((b.q, b.k, b.v), self.projections, strict=True):
            made = x.new_empty(x.size(0), part.shape[1] * part.shape[2])
            linear(x, weight, made, b.workspace, norm=self.norms[0])
            part.copy_(made.view(part.shape))

    def _normalised(self, b: Buffers) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.head_norms:
            return b.q, b.k
        q, k = (
            torch.nn.functional.rms_norm(part, (part.shape[2],), weight, eps)
            for part, (weight, eps) in zip((b.q, b.k), self.head_norms, strict=True)
        )
        return q, k

    def _turn(self, q: torch.Tensor, b: Buffers, positions: torch.Tensor) -> None:
        """Rotate queries: `append` to a cache of their own, where no values are wanted."""
        append(
            q, q, b.turned, b.other, b.indptr, b.zero, rope="neox", cos=self.scratch.cos,
            sin=self.scratch.sin, positions=positions,
        )  # fmt: skip

    def _finish(self, x: torch.Tensor, out: torch.Tensor, b: Buffers) -> None:
        w = b.workspace
        linear(b.attended_flat, self.o, b.middle, w, residual=x)
        linear(b.middle, self.gate, b.gated, w, up=self.up, norm=self.norms[1])
        linear(b.gated, self.down, out, w, residual=b.middle)


def linear(
    x: torch.Tensor,
    weight: Weight,
    out: torch.Tensor,
    workspace: torch.Tensor,
    *,
    up: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    norm: tuple[torch.Tensor | None, float] = (None, 1e-6),
) -> None:
    """Call `fewstep.linear.run` without its checks, in blocks of rows."""
    octets, kind, group, bias = weight
    scale, eps = norm
    if x.size(0) <= BLOCK:  # len costs more
        _core.linear_run(x, octets, kind, group, bias, up, residual, scale, eps, out, workspace)
        return
    for first in range(0, x.size(0), BLOCK):
        some = slice(first, first + BLOCK)
        rest = None if residual is None else residual[some]
        _core.linear_run(
            x[some], octets, kind, group, bias, up, rest, norm[0], norm[1], out[some], workspace
        )


def _is_dense(mask: Any) -> bool:
    return mask is not None and (mask.dtype != torch.int32 or mask.shape[-1] != FIELDS)


def _linears(layer: Any) -> list[Any]:
    attn, mlp = layer.self_attn, layer.mlp
    return [
        attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    ]  # fmt: skip


def weight_of(linear: Any) -> Weight:
    packed: Packed = linear.weight.packed
    bias = None if linear.bias is None else linear.bias.detach()
    return packed.data, kind_index(packed), packed.group, bias


def _joined(linears: list[Any]) -> bool:
    """Let the packed weights and biases of linear layers lie one after the other.

    They stay those of their layers. False where an output would lie in the midst of a panel.
    """
    packed = [linear.weight.packed for linear in linears]
    biased = [linear.bias is not None for linear in linears]
    if any(p.shape[0] % 32 for p in packed[:-1]) or len(set(biased)) > 1:
        return False
    octets = aligned(sum(p.nbytes for p in packed), packed[0].data)
    first = 0
    for linear, p in zip(linears, packed, strict=True):
        own = octets[first : first + p.nbytes].copy_(p.data)
        first += p.nbytes
        linear.weight.packed, linear.weight.octets = replace(p, data=own), own
        linear.weight.joined = octets
    if biased[0]:
        bias: Any = torch.cat([linear.bias.detach() for linear in linears])
        for linear, own in zip(linears, bias.split([p.shape[0] for p in packed]), strict=True):
            linear.bias.data = own
        linears[0].weight.joined_bias = bias
    return True


def _whole(first: Any) -> Weight:
    """Return joined layers as one, by the first of them."""
    _, kind, group, bias = weight_of(first)
    return first.weight.joined, kind, group, None if bias is None else first.weight.joined_bias
