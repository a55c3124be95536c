# SPDX-License-Identifier: Apache-2.0
"""A linear layer of torch on packed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from . import _core
from ._torch_weight import PackedWeight, exchange, packed_parameter, unfit
from .linear import Packed, kind_index, run, unpack

QUANTISED = ("int8", "int4")
_BLOCK = 256  # rows of a call: on the CPU more take longer a row, and more than unpacking saves


@torch.library.custom_op("fewstep::linear", mutates_args=())
def linear_op(
    x: torch.Tensor,
    octets: torch.Tensor,
    bias: torch.Tensor | None,
    outputs: int,
    kind: str,
    group: int,
) -> torch.Tensor:
    """Apply a packed weight to rows, shape (M, I)."""
    return _rows(x, Packed(octets, kind, group, (outputs, x.shape[1])), bias)


@linear_op.register_fake
def _(
    x: torch.Tensor,
    octets: torch.Tensor,
    bias: torch.Tensor | None,
    outputs: int,
    kind: str,
    group: int,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], outputs)


def _rows(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    """Return x @ W.T + bias for x [..., I], in blocks of rows; on a GPU many rows are torch's."""
    if not x.is_contiguous() and (x.ndim != 2 or x.stride(1) != 1):
        x = x.contiguous()  # rows may be apart
    x = x.detach() if x.requires_grad else x  # ops take no tensor that wants a gradient
    bias = bias.detach() if bias is not None and bias.requires_grad else bias
    outputs, inputs = packed.shape
    rows = x.view(-1, inputs) if x.ndim != 2 else x
    if not rows.is_cpu and len(rows) > _BLOCK:
        weight = unpack(packed, out=rows.new_empty(packed.shape))
        bias = None if bias is None else bias.to(rows.dtype)
        return functional.linear(rows, weight, bias).view(*x.shape[:-1], outputs)
    y = x.new_empty(len(rows), outputs)
    for first in range(0, len(rows), _BLOCK):
        some = slice(first, first + _BLOCK)
        run(rows[some], packed, bias=bias, out=y[some])
    return y.view(*x.shape[:-1], outputs)


class Linear(torch.nn.Linear):
    """`torch.nn.Linear` on a packed weight, for the few rows of decoding and verification.

    Same constructor, parameters, initial values and state dict. The parameter `weight` has the
    shape, dtype and values of the matrix, and packed memory: it is unpacked for whatever but this
    layer's own call reads it, and packed again by whatever writes it as a whole (a state dict, an
    initialiser, an optimiser). Views of it are copies.

    Parameters
    ----------
    in_features, out_features : int
        I and O.
    bias : bool, default True
    device, dtype : optional
        As for `torch.nn.Linear`. On another device than the CPU and, in a build with CUDA kernels,
        CUDA devices, or in another dtype than float32, float16 and bfloat16, the layer is a plain
        one.

    Notes
    -----
    ``layer(input)`` maps (..., I) to (..., O) in input's dtype, which must be the weight's. A row
    has the same bits alone and with any others; 256 rows go at a time. On a CUDA device that holds
    for up to 256 rows: more are torch's product with the unpacked weight. Where a gradient is
    wanted (of the input, the weight or the bias), under autocast and in a plain layer, the call is
    `torch.nn.functional.linear` on the unpacked weight, with its results, gradients and errors;
    unpacking costs more than the product of a few rows, so decode under `torch.no_grad`, and
    freeze the weights of a layer in front of what is trained.

    A quantised weight takes no gradients; the input gets those of the weight that it stands for.
    Its state dict holds that weight in the original dtype, and loading quantises again.

    Under `torch.compile` the call is the op ``fewstep::linear``, without a break of the graph.

    Examples
    --------
    >>> import torch, fewstep.torch
    >>> layer = fewstep.torch.Linear(64, 32)
    >>> with torch.no_grad():
    ...     y = layer(torch.ones(3, 64))
    >>> y.shape, sorted(layer.state_dict())
    (torch.Size([3, 32]), ['bias', 'weight'])
    """

    _away = False  # plain while it is where nothing can be packed, and packed once it is back

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._away = unfit(self.weight) is not None
        if not self._away:
            self.weight = packed_parameter(self.weight, None)

    @classmethod
    def from_linear(cls, module: torch.nn.Linear, dtype: str | None = None) -> Linear:
        """Return a packed layer with the weight of another one, which stays as it is.

        Parameters
        ----------
        module : torch.nn.Linear
            On the CPU or a CUDA device; float32 | float16 | bfloat16.
        dtype : {"int8", "int4"}, optional
            Quantise the weight; kept as it is when left out.

        Returns
        -------
        Linear
            With the module's own bias, its training flag and none of its hooks.

        Raises
        ------
        ValueError
            The weight cannot be packed, or `dtype` is another.
        TypeError
            `module` is no `torch.nn.Linear`.

        Examples
        --------
        >>> plain = torch.nn.Linear(64, 32)
        >>> layer = fewstep.torch.Linear.from_linear(plain, "int8")
        >>> layer
        Linear(in_features=64, out_features=32, bias=True, packed=int8)
        """
        function = "fewstep.torch.Linear.from_linear"
        if not isinstance(module, torch.nn.Linear):
            raise TypeError(
                f"{function}: 'module' must be a torch.nn.Linear, got {type(module).__name__}"
            )
        check_kind(function, dtype)
        fault = unfit(module.weight)
        if fault:
            raise ValueError(f"{function}: 'module' must have a weight {fault[0]}, got {fault[1]}")
        made = cls.__new__(cls)
        torch.nn.Module.__init__(made)
        made.in_features, made.out_features = module.in_features, module.out_features
        made.weight = packed_parameter(plain(module.weight), dtype)
        made.register_parameter("bias", module.bias)
        return made.train(module.training)

    @property
    def kind(self) -> str | None:
        """How the weight is stored, one of `fewstep.linear.KINDS`; None where it is not packed."""
        weight = self.weight
        return weight.packed.kind if isinstance(weight, PackedWeight) else None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return ``input @ weight.T + bias``."""
        parameters = self._parameters
        weight: Any = parameters.get("weight")
        # Where something is parametrised, it is no parameter any more.
        is_packed = type(weight) is PackedWeight and "bias" in parameters
        if not is_packed or torch.is_autocast_enabled("cpu" if weight.is_cpu else "cuda"):
            return functional.linear(input, plain(self.weight), self.bias)
        bias, packed = parameters["bias"], weight.packed
        outputs, inputs = packed.shape
        plainly = not torch.is_grad_enabled() and not _traced(input)
        if plainly and weight.is_cpu and input.dtype is weight.dtype:
            # Decoding: the checks below take longer than a small layer's product.
            applied: torch.Tensor | None = _core.linear_apply(
                input, packed.data, kind_index(packed), packed.group, inputs, outputs, bias, _BLOCK
            )
            if applied is not None:
                return applied
        if not isinstance(input, torch.Tensor):
            _refuse(input, weight)
        shape = input.shape
        fits = input.dtype is weight.dtype and input.device == weight.device
        if not fits or not shape or shape[-1] != inputs:
            _refuse(input, weight)
        if torch.is_grad_enabled() and (
            input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        ):
            return functional.linear(input, weight, bias)
        if _traced(input):
            rows = input.reshape(-1, inputs)
            out: torch.Tensor = linear_op(
                rows, weight.octets, bias, outputs, packed.kind, packed.group
            )
            return out.view(*shape[:-1], outputs)
        return _rows(input, packed, bias)

    def extra_repr(self) -> str:
        """Return the sizes and how the weight is stored."""
        return f"{super().extra_repr()}, packed={self.kind}"

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        was_packed = self.kind is not None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.kind is None and (was_packed or self._away):
            self._away = unfit(self.weight) is not None
            if not self._away:
                exchange(self.weight, packed_parameter(self.weight, None).detach())
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        kind = self.kind
        super()._load_from_state_dict(*args, **kwargs)
        if kind and self.kind is None and unfit(self.weight) is None:  # assign=True
            self.weight = packed_parameter(self.weight, kind)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight: Any = self._parameters.get("weight")
        if type(weight) is PackedWeight and not keep_vars:
            destination[f"{prefix}weight"] = weight.exported()


def _traced(x: torch.Tensor) -> bool:
    """Tell whether torch records what is computed: it sees ops of its own registry alone."""
    recorded: bool = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return recorded or type(x) is not torch.Tensor


def plain(weight: Any) -> torch.Tensor:
    """Return a weight as an ordinary tensor."""
    return weight.plain() if isinstance(weight, PackedWeight) else weight


def check_kind(function: str, dtype: object) -> None:
    """Refuse a form that no linear layer has."""
    if dtype is not None and dtype not in QUANTISED:
        raise ValueError(f"{function}: 'dtype' must be None, 'int8' or 'int4', got {dtype!r}")


def _refuse(input: torch.Tensor, weight: PackedWeight) -> None:
    """Say what is wrong with an input."""
    if not isinstance(input, torch.Tensor):
        raise TypeError(
            f"fewstep.torch.Linear: 'input' must be a torch.Tensor, got {type(input).__name__}"
        )
    if input.device != weight.device:
        must, got = f"be on {weight.device}", str(input.device)
    elif input.dtype is not weight.dtype:
        must = f"have the weight's dtype {str(weight.dtype).removeprefix('torch.')}"
        got = str(input.dtype).removeprefix("torch.")
    else:
        must, got = f"have shape [..., I={weight.shape[1]}]", str(list(input.shape))
    raise ValueError(f"fewstep.torch.Linear: 'input' must {must}, got {got}")
