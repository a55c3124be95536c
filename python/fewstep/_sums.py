# SPDX-License-Identifier: Apache-2.0
"""Per-sample reductions of the solver family; `fewstep.solver` re-exports them."""

from __future__ import annotations

import math
from typing import Any

from fewstep import _core
from fewstep._arrays import empty, shape_of


def gram(arrays: Any, *, split: int = 1, out: Any = None, workspace: Any = None) -> Any:
    """Sum up each sample's Gram matrix of 1 and up to 4 arrays, in one pass over memory.

    ``out[b, j, k] = sum_n u_j[b, n] * u_k[b, n]`` with ``u_0 = 1`` and ``u_1 .. u_K`` the arrays:
    row 0 holds the number of elements and the sums, the diagonal the squared norms, the rest the
    inner products. Means, standard deviations, projections and angles follow from it.

    Parameters
    ----------
    arrays : array or sequence of arrays, shape (B, ...); float32 | float16 | bfloat16
        The arrays u_1 .. u_K, each of its own dtype. One of shape (m * B, ...) stands for m of
        them, one after the other, as model outputs come under guidance.
    split : int, default 1
        How many arrays the first one holds, which says what B is when there is no `out`.
    out : array, shape (B, K + 1, K + 1), float64, optional
        Written in place and returned.
    workspace : array, shape (W,), int64, optional
        Scratch of ``B * ceil(N / 4096) * K * (K + 3) / 2`` elements or more; allocated when left
        out.

    Returns
    -------
    array, shape (B, K + 1, K + 1), float64
        `out`; or a new array of the arrays' kind and device.

    Raises
    ------
    ValueError
        A shape, dtype or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    Products are exact and sums are taken in float64, in an order that depends on the shape of a
    sample alone: the same bits alone or in a batch, on any number of threads, with every kernel
    variant. Guidance needs the precision: the squared norm of the difference of two outputs that
    agree in three digits loses six of them. Allocates nothing with `out` and `workspace`.

    References
    ----------
    .. [1] Higham, "The accuracy of floating point summation", 1993.

    Examples
    --------
    >>> u = np.array([[1.0, 2.0, 2.0]], np.float32)
    >>> fewstep.solver.gram(u)
    array([[[3., 5.],
            [5., 9.]]])
    """
    given = list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]
    if not given:
        raise ValueError("fewstep.solver.gram: 'arrays' must hold 1 to 4 arrays, got 0")
    shapes = [shape_of("fewstep.solver.gram", "arrays", a) for a in given]
    if out is not None:
        batch = shape_of("fewstep.solver.gram", "out", out)[0]
    elif split < 1 or shapes[0][0] % split:
        raise ValueError(
            "fewstep.solver.gram: 'split' must be 1 or more and divide the rows of the first "
            f"array, {shapes[0][0]}, got {split}"
        )
    else:
        batch = shapes[0][0] // split
    count = sum(shape[0] // batch for shape in shapes) if batch else len(given) + split - 1
    if out is None:
        out = empty((batch, count + 1, count + 1), "float64", given[0])
    if workspace is None:
        elements = math.prod(shapes[0][1:])
        needed = _core.solver_gram_workspace_bytes(batch, elements, count)
        workspace = empty((needed // 8,), "int64", given[0])
    _core.solver_gram(given, out, workspace)
    return out


def quantile(
    x: Any, q: float, *, magnitude: bool = True, out: Any = None, workspace: Any = None
) -> Any:
    """Find the exact q-quantile of each sample's magnitudes, or of its values, without sorting.

    ``out[b] = y[k] + f * (y[k + 1] - y[k])`` with y the sample's magnitudes (values) in ascending
    order and ``k + f = q * (N - 1)``: linear interpolation, as `numpy.quantile` has it.

    Parameters
    ----------
    x : array, shape (B, ...); float32 | float16 | bfloat16
        Samples of 1 to 2**32 - 1 elements.
    q : float
        0 (the least) to 1 (the greatest).
    magnitude : bool, default True
        Of ``|x|``, as dynamic thresholding wants it; False for x itself.
    out : array, shape (B,), float32, optional
        Written in place and returned.
    workspace : array, shape (W,), int64, optional
        Scratch of ``B * (4 + 1024 * min(16, ceil(N / 65536)))`` elements or more; allocated when
        left out.

    Returns
    -------
    array, shape (B,), float32
        `out`; or a new array of x's kind and device.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        `x` is not an array.

    Notes
    -----
    A sample that holds a NaN has the quantile NaN. The position is computed in float64 and the
    interpolation rounded once; `torch.quantile` computes the position in float32, which beyond
    some hundred thousand elements is off by more than one element, and refuses more than 2**24.
    Three passes over memory find the digits of the wanted element's bits [1]_. The same bits alone
    or in a batch, on any number of threads, with every kernel variant. Allocates nothing with `out`
    and `workspace`.

    References
    ----------
    .. [1] Alabi, Blanchard, Gordon, Steinbach, "Fast k-selection algorithms for graphics processing
       units", 2012.
    .. [2] Hyndman, Fan, "Sample quantiles in statistical packages", 1996, definition 7.

    Examples
    --------
    >>> x = np.array([[1.0, -4.0, 2.0], [0.5, 0.0, 0.25]], np.float32)
    >>> fewstep.solver.quantile(x, 0.75)
    array([3.   , 0.375], dtype=float32)
    >>> fewstep.solver.quantile(x, 0.0, magnitude=False)
    array([-4.,  0.], dtype=float32)
    """
    shape = shape_of("fewstep.solver.quantile", "x", x)
    if out is None:
        out = empty(shape[:1], "float32", x)
    if workspace is None:
        needed = _core.solver_quantile_workspace_bytes(shape[0], math.prod(shape[1:]))
        workspace = empty(((needed + 7) // 8,), "int64", x)
    _core.solver_quantile(x, q, magnitude, out, workspace)
    return out


_TOLERANCES = ("sum", "max")


def error_norm(
    error: Any,
    before: Any,
    after: Any,
    *,
    minus: Any = None,
    atol: float = 1e-6,
    rtol: float = 1e-3,
    tolerance: str = "sum",
    out: Any = None,
    workspace: Any = None,
) -> Any:
    """Return the scaled error of an adaptive step for each sample.

    ``out[b] = sqrt(mean(((error - minus) / s)**2))`` with
    ``s = atol + rtol * max(|before|, |after|)`` per element: a step is good where it is at most 1.

    Parameters
    ----------
    error : array, shape (B, ...); float32 | float16 | bfloat16
        The error estimate, or one of two solutions whose difference it is.
    before, after : array, shape (B, ...); float32 | float16 | bfloat16
        The sample at the start and at the end of the step.
    minus : array, shape (B, ...); float32 | float16 | bfloat16, optional
        The other solution; may be `after` itself.
    atol : float
        Absolute tolerance, above 0.
    rtol : float
        Relative tolerance, 0 or more.
    tolerance : {"sum", "max"}
        ``"max"``: ``s = max(atol, rtol * max(|before|, |after|))``, as k-diffusion has it.
    out : array, shape (B,), float64, optional
        Written in place and returned.
    workspace : array, shape (W,), int64, optional
        Scratch of ``B * ceil(N / 4096)`` elements or more; allocated when left out.

    Returns
    -------
    array, shape (B,), float64
        `out`; or a new array of the inputs' kind and device.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    NaN where an element of any input is not finite, so that ``out <= 1`` refuses the step.
    Arithmetic in float64. The same bits alone or in a batch, on any number of threads, with every
    kernel variant. Allocates nothing with `out` and `workspace`.

    References
    ----------
    .. [1] Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4, eq. 4.11.
    .. [2] Jolicoeur-Martineau et al., "Gotta go fast when generating data with score-based models",
       arXiv 2105.14080.

    Examples
    --------
    >>> x = np.ones((1, 4), np.float32)
    >>> fewstep.solver.error_norm(0.25 * x, x, x, atol=0.25, rtol=0.25)
    array([0.5])
    """
    shape = shape_of("fewstep.solver.error_norm", "error", error)
    if tolerance not in _TOLERANCES:
        raise ValueError(
            f"fewstep.solver.error_norm: 'tolerance' must be one of sum, max, got {tolerance!r}"
        )
    if out is None:
        out = empty(shape[:1], "float64", error)
    if workspace is None:
        needed = _core.solver_error_norm_workspace_bytes(shape[0], math.prod(shape[1:]))
        workspace = empty((needed // 8,), "int64", error)
    kind = _TOLERANCES.index(tolerance)
    _core.solver_error_norm(error, before, after, minus, atol, rtol, kind, out, workspace)
    return out
