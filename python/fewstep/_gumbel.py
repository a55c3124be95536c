# SPDX-License-Identifier: Apache-2.0
"""Tokens drawn without replacement; `fewstep.logits` re-exports this."""

from __future__ import annotations

from typing import Any, NamedTuple

from fewstep import _core
from fewstep._arrays import empty, shape_of
from fewstep._sampling import row_numbers
from fewstep.noise import STREAM_SUBSET


class Subset(NamedTuple):
    """Tokens drawn without replacement by `gumbel_top_k`, in the order drawn."""

    ids: Any
    perturbed: Any
    logprobs: Any


def gumbel_top_k(
    logits: Any,
    k: int,
    seeds: Any,
    positions: Any = 0,
    *,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    typical: Any = 1.0,
    eta: Any = 0.0,
    bitmask: Any = None,
    stream: int = STREAM_SUBSET,
    draw: int = 0,
    ids: Any = None,
    perturbed: Any = None,
    logprobs: Any = None,
    status: Any = None,
) -> Subset:
    """Draw k different tokens from each row of logits, filtered, as if one after the other.

    A token's log-probability plus a Gumbel variate is its perturbed value; the k greatest are k
    draws without replacement, in their order.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
    k : int
        From 1 to 1024; what `ids` has, where given.
    seeds : array or sequence of int, shape (R,), int64 | uint64
        A request's seed.
    positions : array, sequence of int or int, shape (R,), int32
        Where in its sequence the token stands: with the seed it names the random numbers.
    temperature, top_k, top_p, min_p, typical, eta : number or array, shape (R,)
        The filters of `sample`.
    bitmask : array, shape (R, ceil(V / 32)), int32 | uint32, optional
        Bit ``v % 32`` of word ``v // 32`` allows token v.
    stream, draw : int
        Purpose of the random numbers (`fewstep.noise`), and their number at the position.
    ids : array, shape (R, k), int32, optional
        Written in place and returned, as are `perturbed` and `logprobs`.
    perturbed, logprobs : array, shape (R, k), float32, optional
        See Returns.
    status : array, shape (R,), int32, optional
        Where to write why a row has no tokens: 0 it has, 1 NaN, 2 infinite, 3 nothing allowed.

    Returns
    -------
    Subset
        ``ids`` in the order drawn; ``perturbed``, descending; ``logprobs`` under the filtered law.
        Where that has fewer than k tokens, -1 and -inf; -1 and NaN in a row without a law.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    The random numbers are those of no other purpose: they share none with `sample`. Decided in
    float64. The same bits alone or in a batch, on any number of threads, with every kernel variant.
    Allocates nothing with all outputs given. On CUDA it is as with `sample`.

    References
    ----------
    .. [1] Kool, van Hoof, Welling, "Stochastic beams and where to find them", arXiv 1903.06059.

    Examples
    --------
    >>> logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    >>> drawn = fewstep.logits.gumbel_top_k(logits, 3, seeds=[3])
    >>> len(set(drawn.ids[0].tolist()))
    3
    >>> bool((np.diff(drawn.perturbed[0]) <= 0).all())
    True
    """
    rows = shape_of("fewstep.logits.gumbel_top_k", "logits", logits)[0]
    seeds = row_numbers(seeds, rows, "int64", logits)
    positions = row_numbers(positions, rows, "int32", logits)
    ids = empty((rows, k), "int32", logits) if ids is None else ids
    perturbed = empty((rows, k), "float32", logits) if perturbed is None else perturbed
    logprobs = empty((rows, k), "float32", logits) if logprobs is None else logprobs
    filters = (temperature, top_k, top_p, min_p, typical, eta)
    inputs, outputs = (logits, seeds, positions, bitmask), (ids, perturbed, logprobs, status)
    _core.logits_gumbel_top_k(filters, stream, draw, inputs, outputs)
    return Subset(ids, perturbed, logprobs)
