# SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on a sample's seed alone.

Shapes: ``B`` samples of ``N`` elements. A sample's numbers are the same alone or in a batch, on one
thread or many, and with every kernel variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewstep import _core

__all__ = [
    "STREAM_ACCEPT",
    "STREAM_BONUS",
    "STREAM_BROWNIAN",
    "STREAM_DRAFT",
    "STREAM_KNOWN",
    "STREAM_RESIDUAL",
    "STREAM_SAMPLE",
    "STREAM_START",
    "STREAM_STEP",
    "STREAM_SUBSET",
    "STREAM_USER",
    "brownian",
    "normal",
    "pfgmpp",
]

#: A solver's noise.
STREAM_STEP = 0
#: The first sample of a trajectory.
STREAM_START = 1
#: Noise on the known image of a masked step.
STREAM_KNOWN = 2
#: The nodes of a Brownian tree.
STREAM_BROWNIAN = 3
#: Tokens that a drafter draws.
STREAM_DRAFT = 4
#: Whether a draft token is accepted.
STREAM_ACCEPT = 5
#: The token in place of a rejected one.
STREAM_RESIDUAL = 6
#: The token after the last accepted one.
STREAM_BONUS = 7
#: Plain sampling of tokens.
STREAM_SAMPLE = 8
#: Tokens drawn without replacement.
STREAM_SUBSET = 9
#: The first stream for a caller's own purposes.
STREAM_USER = 16


def _is_torch(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "torch"


def normal(
    seeds: Any,
    shape: Sequence[int] | None = None,
    *,
    step: int = 0,
    stream: int = 0,
    scale: float = 1.0,
    dtype: Any = "float32",
    out: Any = None,
) -> Any:
    """Draw normal variates for each seed.

    ``out[b, n] = scale * z(seeds[b], stream, step, n)``

    Parameters
    ----------
    seeds : array or sequence of int, shape (B,), int64 | uint64
        One 64-bit seed per sample; negative numbers are their two's complement. Those in host
        memory are copied to the device of a CUDA tensor `out`; a call that is captured into a
        graph needs them there.
    shape : sequence of int, optional
        Shape of one sample; needed when there is no `out`.
    step : int
        Number of the draw within its stream, below 2**32.
    stream : int
        Purpose of the draw, which keeps it apart from others: one of the ``STREAM_`` constants, or
        ``STREAM_USER`` and above for a caller's own.
    scale : float
        Standard deviation, finite.
    dtype : dtype or str
        float32, float16 or bfloat16, as NumPy's or torch's dtype or by name. A torch dtype gives a
        torch tensor. NumPy has no bfloat16.
    out : array, shape (B, \\*shape), float32 | float16 | bfloat16, optional
        Written in place and returned.

    Returns
    -------
    array, shape (B, \\*shape)
        `out`; or a torch tensor when `seeds` or `dtype` is torch's; or a NumPy array.

    Raises
    ------
    ValueError
        A shape, dtype or value is not as described; the message names the argument.

    Notes
    -----
    Philox4x32-10 [1]_ with key (seed low, seed high) and counter (n // 4 low, n // 4 high, step,
    stream), turned into normals by Box and Muller's method [2]_. Bits repeat on every machine.
    Allocates nothing with `out` and seeds on its device.

    References
    ----------
    .. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011
    .. [2] Box, Muller, "A note on the generation of random normal deviates", 1958

    Examples
    --------
    >>> pair = fewstep.noise.normal([7, 8], (2, 2))
    >>> pair.shape
    (2, 2, 2)
    >>> bool((fewstep.noise.normal([8], (2, 2))[0] == pair[1]).all())
    True
    """
    for name, value in (("step", step), ("stream", stream)):
        _check_word("normal", name, value)
    seeds, out = _operands("normal", seeds, shape, dtype, out)
    _core.noise_normal(seeds, out, step, stream, scale)
    return out


def brownian(
    seeds: Any,
    t0: Any,
    t1: Any,
    shape: Sequence[int] | None = None,
    *,
    t_min: float = 0.0,
    t_max: float = 1.0,
    depth: int = 20,
    normalized: bool = False,
    stream: int = STREAM_BROWNIAN,
    scale: float = 1.0,
    dtype: Any = "float32",
    out: Any = None,
) -> Any:
    """Draw increments of a Brownian motion, consistent over any division of time.

    ``out[b, n] = scale * (W(t1[b]) - W(t0[b]))`` with W of (seeds[b], stream, n) alone: samplers
    with other steps see the same noise, and increments over the parts of an interval add up to that
    of the whole.

    Parameters
    ----------
    seeds : array or sequence of int, shape (B,), int64 | uint64
        As in `normal`.
    t0, t1 : float, or array, shape (B,), float64
        Between `t_min` and `t_max`; where t1 is the earlier one the increment is that of the
        reversed interval with its sign changed. Arrays in host memory are copied to the device of a
        CUDA tensor `out`.
    shape : sequence of int, optional
        Shape of one sample; needed when there is no `out`.
    t_min, t_max : float
        Where the motion begins, with W = 0, and ends. With another range it is another motion.
    depth : int
        Levels of the tree, 1 to 30. Times are rounded to multiples of
        ``(t_max - t_min) / 2**depth``, and each level costs one or two normals per element.
    normalized : bool
        Divide by the square root of the interval: normals of variance 1, or zeros where it is
        empty.
    stream : int
        As in `normal`; each has its own motion.
    scale : float
        Factor on the result, finite.
    dtype : dtype or str
        float32, float16 or bfloat16.
    out : array, shape (B, \\*shape), float32 | float16 | bfloat16, optional
        Written in place and returned.

    Returns
    -------
    array, shape (B, \\*shape)
        `out`; or as `normal`.

    Raises
    ------
    ValueError
        A shape, dtype or value is not as described; the message names the argument. On CUDA times
        in arrays are not looked at: those outside of the tree are taken as its ends.

    Notes
    -----
    The Levy-Ciesielski series on a dyadic grid [1]_: W is a sum of normals, one per node of a
    binary tree, times hat functions, so that any increment is a sum of at most ``1 + 2 * depth``
    normals and nothing is stored (a virtual Brownian tree [2]_). Coefficients in float64, rounded
    once; sums in float32. Bits repeat on every machine. Allocates nothing with `out`, and seeds and
    times that are numbers or on its device.

    References
    ----------
    .. [1] Ciesielski, "Hoelder conditions for realizations of Gaussian processes", 1961
    .. [2] Li, Wong, Chen, Duvenaud, "Scalable Gradients for Stochastic Differential Equations",
       arXiv 2001.01328, section 4

    Examples
    --------
    >>> whole = fewstep.noise.brownian([7], 0.25, 1.0, (1000,))
    >>> first = fewstep.noise.brownian([7], 0.25, 0.5, (1000,))
    >>> rest = fewstep.noise.brownian([7], 0.5, 1.0, (1000,))
    >>> bool(abs(whole - first - rest).max() < 1e-5)
    True
    """
    _check_word("brownian", "stream", stream)
    seeds, out = _operands("brownian", seeds, shape, dtype, out)
    t0, t1 = _time(t0, out), _time(t1, out)
    _core.noise_brownian(
        seeds, t0, t1, out, stream, depth, normalized, float(t_min), float(t_max), scale
    )
    return out


def pfgmpp(
    seeds: Any, shape: Sequence[int], dimensions: int, *, scale: float = 1.0, dtype: Any = "float32"
) -> Any:
    """Draw the prior of PFGM++: normals whose deviation is itself random for each sample.

    In ``N`` data and ``D`` augmented dimensions the radius R of PFGM++ has ``R**2 = r**2 * u /
    (1 - u)`` with u of the Beta(N/2, D/2) distribution and ``r = scale * sqrt(D)``, and the
    direction is uniform. That is ``scale * sqrt(D / c) * z`` with z normal and c chi-squared of D
    degrees of freedom.

    Parameters
    ----------
    seeds : array or sequence of int, shape (B,), int64 | uint64
        One 64-bit seed per sample.
    shape : sequence of int
        Shape of one sample.
    dimensions : int
        D, at least 1; the larger, the nearer to `normal`.
    scale : float
        sigma at the first node of the plan, which is that of EDM.
    dtype : dtype or str
        Of the result, as in `normal`.

    Returns
    -------
    array, shape (B, \\*shape)
        For ``Sampler(..., initial=...)``.

    Raises
    ------
    ValueError
        `dimensions` is below 1, or an argument of `normal` is wrong.

    Notes
    -----
    z is draw 0 of ``STREAM_START``, the noise that a sampler starts from; c sums the squares of
    draw 1.

    References
    ----------
    .. [1] Xu et al., "PFGM++: Unlocking the Potential of Physics-Inspired Generative Models",
       arXiv 2302.04265, section 4 and appendix B

    Examples
    --------
    >>> x = fewstep.noise.pfgmpp([7, 8], (3, 4), 128, scale=80.0)
    >>> x.shape
    (2, 3, 4)
    """
    if dimensions < 1:
        raise ValueError(f"fewstep.noise.pfgmpp: 'dimensions' must be at least 1, got {dimensions}")
    z = normal(seeds, shape, stream=STREAM_START, dtype=dtype)
    squares = normal(seeds, (dimensions,), step=1, stream=STREAM_START)
    if _is_torch(squares):
        chi = squares.double().square().sum(1)
        factor = (scale * (dimensions / chi).sqrt()).to(z.dtype)
    else:
        chi = np.square(np.asarray(squares, np.float64)).sum(1)
        factor = (scale * np.sqrt(dimensions / chi)).astype(np.float32)
        if _is_torch(z):
            import torch

            factor = torch.from_numpy(factor).to(z.dtype)
    z *= factor.reshape(-1, *[1] * len(tuple(shape)))
    return z


def _check_word(function: str, name: str, value: int) -> None:
    if not 0 <= value < 2**32:
        raise ValueError(f"fewstep.noise.{function}: '{name}' must be in [0, 2**32), got {value}")


def _operands(
    function: str, seeds: Any, shape: Sequence[int] | None, dtype: Any, out: Any
) -> tuple[Any, Any]:
    """Return the seeds as an array where `out` is, and `out`, made where there is none."""
    tensor_seeds = _is_torch(seeds)
    if not hasattr(seeds, "__dlpack__") or isinstance(seeds, np.ndarray):
        seeds = np.asarray(seeds)
        narrow = seeds.dtype.kind in "iu" and seeds.dtype.itemsize < 8
        if narrow or seeds.size == 0:  # NumPy makes an empty list float64
            seeds = seeds.astype(np.int64)
        if _on_cuda(out) and seeds.dtype.kind in "iu":
            seeds = _on_device(seeds.view(np.int64), out.device)
    if out is None:
        if shape is None:
            raise ValueError(
                f"fewstep.noise.{function}: 'shape' must be given without 'out', got None"
            )
        out = _empty((len(seeds), *shape), dtype, seeds if tensor_seeds else None)
    elif shape is not None and tuple(out.shape[1:]) != tuple(shape):
        raise ValueError(
            f"fewstep.noise.{function}: 'out' must have shape [B, *{list(shape)}], "
            f"got {list(out.shape)}"
        )
    return seeds, out


def _time(t: Any, out: Any) -> Any:
    """Return a time for all samples as a float, those of each as an array where `out` is."""
    if isinstance(t, (int, float, np.integer, np.floating)):
        return float(t)
    if hasattr(t, "__dlpack__") and not isinstance(t, np.ndarray):
        return t
    values = np.asarray(t)
    if values.dtype.kind in "iuf":
        values = values.astype(np.float64)
        if _on_cuda(out):
            return _on_device(values, out.device)
    return values


def _on_cuda(out: Any) -> bool:
    return _is_torch(out) and out.device.type == "cuda"


def _on_device(values: Any, device: Any) -> Any:
    """Copy an array to a CUDA device without waiting for it."""
    import torch

    bits = torch.from_numpy(np.ascontiguousarray(values))
    pinned = torch.empty_like(
        bits, pin_memory=True
    )  # the caller's memory may change after the call
    return pinned.copy_(bits).to(device, non_blocking=True)


def _empty(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """Make an uninitialised array; a torch tensor when `like` is one or `dtype` is torch's."""
    if like is None and not _is_torch(dtype):
        return np.empty(shape, dtype)
    import torch

    if not isinstance(dtype, torch.dtype):
        dtype = getattr(torch, dtype if isinstance(dtype, str) else np.dtype(dtype).name)
    return torch.empty(shape, dtype=dtype, device=None if like is None else like.device)
