# SPDX-License-Identifier: Apache-2.0
"""Linear layers for the few rows of decoding and verification, on packed weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep import _core
from fewstep._arena import ARENA
from fewstep._arrays import empty, is_torch, shape_of

__all__ = ["KINDS", "Packed", "pack", "run", "unpack"]

KINDS = ("float32", "float16", "bfloat16", "int8", "int4")
_INDEX = {kind: index for index, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Packed:
    """A weight [O, I] in the blocked layout that `run` reads; made by `pack`.

    Attributes
    ----------
    data : array, shape (nbytes,), uint8
        Panels of 32 outputs.
    kind : {"float32", "float16", "bfloat16", "int8", "int4"}
        How weights are stored.
    group : int
        Inputs that share a scale, in int4.
    shape : tuple of int
        (O, I).
    """

    data: Any
    kind: str
    group: int
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of `data`: those of the weight with O filled up to a multiple of 32."""
        return int(self.data.shape[0])


def pack(weight: Any, *, kind: str | None = None, group: int = 32, out: Any = None) -> Packed:
    """Pack a weight into the blocked layout that `run` reads, quantised if asked.

    Parameters
    ----------
    weight : array, shape (O, I); float32 | float16 | bfloat16
        As `torch.nn.Linear` has it: one row per output.
    kind : {"float32", "float16", "bfloat16", "int8", "int4"}, optional
        How to store weights; as they are when left out. ``"int8"``: ``w = s * q`` with
        ``s = max(abs(w)) / 127`` of each output and ``q = round(w / s)``. ``"int4"``: the same per
        output and group of inputs with ``s = m / -8`` rounded to bfloat16, m the weight of largest
        magnitude, and q in -8 .. 7.
    group : {32, 64}
        Inputs that share a scale, in int4; 64 saves 6 % of memory.
    out : array, shape (nbytes,), uint8, optional
        Written in place, and the result's `data`; best at a multiple of 64 bytes, and for `run` on
        CUDA at one of 16.

    Returns
    -------
    Packed
        Of the weight's kind and device. Its memory is that of the weights (1 byte and 4 per output
        in int8, half a byte and 2 per group in int4), O filled up to a multiple of 32 and I to one
        of 2, or of `group` in int4.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        `weight` is not an array.

    Notes
    -----
    A weight that is not quantised and keeps its dtype comes back from `unpack` bit for bit. The
    same bits on any number of threads and with every kernel variant. Allocates nothing with `out`.

    References
    ----------
    .. [1] Goto, van de Geijn, "Anatomy of high-performance matrix multiplication", 2008.

    Examples
    --------
    >>> packed = fewstep.linear.pack(np.eye(32, 64, dtype=np.float32), kind="int8")
    >>> packed.shape, packed.nbytes
    ((32, 64), 2176)
    """
    outputs, inputs = _two("fewstep.linear.pack", "weight", weight)
    if kind is None:
        kind = dtype_name(weight)
        if kind not in KINDS[:3]:
            raise ValueError(
                "fewstep.linear.pack: 'weight' must have dtype float32 or float16 or bfloat16, "
                f"got {kind}"
            )
    index = _INDEX.get(kind)
    if index is None:
        raise ValueError(
            f"fewstep.linear.pack: 'kind' must be one of {', '.join(KINDS)}, got {kind!r}"
        )
    if out is None:
        out = aligned(_core.linear_packed_bytes(outputs, inputs, index, group), weight)
    _core.linear_pack(weight, index, group, out)
    return Packed(out, kind, group, (outputs, inputs))


def unpack(packed: Packed, *, out: Any = None) -> Any:
    """Return the weight that was packed, or what stands for it where it was quantised.

    Parameters
    ----------
    packed : Packed
        What `pack` returned.
    out : array, shape (O, I), optional
        Of the kind's dtype; of int8 and int4 float32, float16 or bfloat16. Written in place and
        returned.

    Returns
    -------
    array, shape (O, I)
        `out`; or a new array of the packed data's kind and device.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        `packed` was not made by `pack`.

    Notes
    -----
    Exact for kinds that are not quantised. NumPy has no bfloat16: pack from torch, or pass `out`.
    Allocates nothing with `out`.

    Examples
    --------
    >>> weight = np.array([[0.5, -1.0], [127.0, 3.0]], np.float32)
    >>> fewstep.linear.unpack(fewstep.linear.pack(weight, kind="int8"))[1]
    array([127.,   3.], dtype=float32)
    """
    check_packed("fewstep.linear.unpack", "packed", packed)
    if out is None:
        dtype = "float32" if packed.kind.startswith("int") else packed.kind
        if dtype == "bfloat16" and not is_torch(packed.data):
            raise ValueError(
                "fewstep.linear.unpack: 'out' must be given for bfloat16 in NumPy, got None"
            )
        out = empty(packed.shape, dtype, packed.data)
    _check_out("fewstep.linear.unpack", out, packed.shape)
    _core.linear_unpack(packed.data, _INDEX[packed.kind], packed.group, out)
    return out


def run(
    x: Any,
    packed: Packed,
    *,
    bias: Any = None,
    up: Packed | None = None,
    residual: Any = None,
    norm: Any = None,
    norm_eps: float = 1e-6,
    out: Any = None,
    workspace: Any = None,
) -> Any:
    """Apply a linear layer to a few rows at nearly the price of one.

    ``y = z + residual`` with ``z = x @ W.T + bias``; or, with `up`, a SwiGLU layer's first half,
    ``y = silu(z) * (x @ Up.T) + residual``. With `norm`, x is normalised first:
    ``x / sqrt(mean(x**2) + norm_eps) * norm`` per row.

    Parameters
    ----------
    x : array, shape (M, I) or (..., I); float32 | float16 | bfloat16
        One row per token, of any number of requests. Leading dimensions lie one after the other.
    packed : Packed
        The weight W, of shape (O, I).
    bias : array, shape (O,), optional
        Added to the products; float32 | float16 | bfloat16, as the arrays below.
    up : Packed, optional
        Up, of the same shape, kind and group as `packed`, which then is the gate's weight.
    residual : array, shape (M, O) or (..., O), optional
        Added last; may be `out`.
    norm : array, shape (I,), optional
        The weight of the RMSNorm before the layer.
    norm_eps : float
        Its epsilon, 0 or more.
    out : array, shape (M, O) or (..., O), optional
        Written in place and returned.
    workspace : array, shape (W,), int64, optional
        Scratch of ``8 + M * I / 2`` elements or more, I rounded up to a multiple of 8 (less when
        quantised); the thread's own when left out, which stays for later calls up to 4 MiB; on CUDA
        made for the call.

    Returns
    -------
    array, shape (M, O) or (..., O)
        `out`; or a new array of x's kind, device and dtype.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        `x` is not an array, or `packed` was not made by `pack`.

    Notes
    -----
    A row's result depends on nothing but the row: the same bits alone and with any others, on any
    number of threads, so that verifying drafted tokens gives the logits that decoding gives. The
    same bits with every kernel variant as well, but for subnormal numbers in bfloat16, which the
    instructions of AVX512-BF16 take for zeros, and for x of the weight's 16-bit type on CUDA, where
    tensor cores add in an order of their own. Sums in float32, in blocks of 512 inputs, rounded
    once to the result's dtype. A normalised x of the weight's 16-bit type is rounded to it. With
    int8 and int4, x is rounded to 16 bits, relative to the largest of each 512 inputs, and products
    with the weights' integers are summed exactly. Weights are read from memory once for up to 70
    rows. Allocates nothing with `out` and `workspace`.

    References
    ----------
    .. [1] Goto, van de Geijn, "Anatomy of high-performance matrix multiplication", 2008.
    .. [2] Shazeer, "GLU variants improve transformer", arXiv 2002.05202, eq. 5.
    .. [3] Zhang, Sennrich, "Root mean square layer normalization", arXiv 1910.07467, eq. 4.

    Examples
    --------
    >>> packed = fewstep.linear.pack(np.array([[1.0, 2.0], [3.0, -4.0]], np.float32))
    >>> fewstep.linear.run(np.array([[1.0, 1.0]], np.float32), packed)
    array([[ 3., -1.]], dtype=float32)
    """
    check_packed("fewstep.linear.run", "packed", packed)
    shape = _shape(x)
    up_data = None
    if up is not None:
        check_packed("fewstep.linear.run", "up", up)
        if (up.shape, up.kind, up.group) != (packed.shape, packed.kind, packed.group):
            raise ValueError(
                "fewstep.linear.run: 'up' must have the shape, kind and group of 'packed', "
                f"{packed.shape}, {packed.kind}, {packed.group}, "
                f"got {up.shape}, {up.kind}, {up.group}"
            )
        up_data = up.data
    outputs, inputs = packed.shape
    if shape[-1] != inputs:
        raise ValueError(f"fewstep.linear.run: 'x' must have {inputs} columns, got {shape[-1]}")
    kind = _INDEX[packed.kind]
    wanted: tuple[int, ...] = (shape[0], outputs)
    if len(shape) > 2:
        wanted = (*tuple(shape)[:-1], outputs)  # torch's own slices cost more
    if out is None:
        out = x.new_empty(wanted) if is_torch(x) else np.empty(wanted, x.dtype)
    else:
        _check_out("fewstep.linear.run", out, wanted)
    if workspace is None and is_torch(x) and not x.is_cpu:
        needed = _core.linear_run_workspace_bytes(x.numel() // inputs, inputs, kind, packed.group)
        workspace = empty((needed // 8,), "int64", x)
    _core.linear_run(
        x,
        packed.data,
        kind,
        packed.group,
        bias,
        up_data,
        residual,
        norm,
        norm_eps,
        out,
        workspace,
    )
    return out


def _two(function: str, name: str, value: Any) -> tuple[int, int]:
    """Return the two sizes of a matrix."""
    shape = shape_of(function, name, value)
    if len(shape) != 2:
        raise ValueError(f"{function}: '{name}' must have shape [O, I], got {list(shape)}")
    return shape[0], shape[1]


def _shape(x: Any) -> tuple[int, ...]:
    """Return the sizes of rows."""
    shape = getattr(x, "shape", None)
    if isinstance(shape, tuple) and len(shape) >= 2:
        return shape  # as it is: converting it would cost more than the rest
    shape = shape_of("fewstep.linear.run", "x", x)
    if len(shape) < 2:
        raise ValueError(f"fewstep.linear.run: 'x' must have shape [M, I], got {list(shape)}")
    return shape


def dtype_name(value: Any) -> str:
    """Return the name of an array's dtype, such as "bfloat16"."""
    return str(value.dtype).removeprefix("torch.")


def kind_index(packed: Packed) -> int:
    """Return the number of a weight's kind in the C interface."""
    return _INDEX[packed.kind]


def check_packed(function: str, name: str, value: object) -> None:
    """Raise TypeError unless a value is packed weights."""
    if not isinstance(value, Packed):
        raise TypeError(
            f"{function}: '{name}' must be a fewstep.linear.Packed, got {type(value).__name__}"
        )


def _check_out(function: str, out: Any, wanted: tuple[int, ...]) -> None:
    """Check a shape that the packed bytes do not tell: they hold O and I filled up."""
    if getattr(out, "shape", None) == wanted:
        return
    shape = shape_of(function, "out", out)
    if shape != wanted:
        raise ValueError(f"{function}: 'out' must have shape {list(wanted)}, got {list(shape)}")


def aligned(count: int, like: Any) -> Any:
    """Make `count` uninitialised bytes that begin a cache line, in huge pages where they fill some.

    NumPy asks for huge pages, torch does not: a row alone is read a tenth to a quarter sooner.
    """
    if is_torch(like) and not like.is_cpu:
        return empty((count,), "uint8", like)
    data = ARENA.take(count)
    if not is_torch(like):
        return data
    import torch

    return torch.from_numpy(data)
