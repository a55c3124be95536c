# SPDX-License-Identifier: Apache-2.0
"""Drawing tokens from logits; `fewstep.logits` re-exports this."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep import _core
from fewstep._arrays import empty, is_torch, shape_of
from fewstep.noise import STREAM_SAMPLE


def row_numbers(values: Any, count: int, dtype: str, like: Any) -> Any:
    """Return a number for each row as an array of the kind of `like`; arrays are passed on."""
    if hasattr(values, "__dlpack__"):
        return values
    if isinstance(values, int):
        values = [values] * count
    array = np.array(list(values), dtype)
    if not is_torch(like):
        return array
    import torch

    return torch.from_numpy(array).to(like.device)


def sample(
    logits: Any,
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
    stream: int = STREAM_SAMPLE,
    draw: int = 0,
    out: Any = None,
    logprobs: Any = None,
    status: Any = None,
) -> Any:
    """Draw a token from each row of logits, filtered, without sorting a vocabulary.

    ``out[r]`` is the first v with ``w(0) + .. + w(v) > u * mass``, where
    ``w(v) = exp((logits[r, v] - max) / temperature)`` if the filters keep v, else 0.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
    seeds : array or sequence of int, shape (R,), int64 | uint64
        A request's seed.
    positions : array, sequence of int or int, shape (R,), int32
        Where in its sequence the token stands: with the seed it names the random number.
    temperature : float or array, shape (R,), float32
        0 takes the best token.
    top_k : int or array, shape (R,), int32
        Keep the k largest; 0 keeps all.
    top_p : float or array, shape (R,), float32
        Of what is left keep the fewest tokens whose probabilities reach it; 1 keeps all.
    min_p : float or array, shape (R,), float32
        Keep what has this share of the largest probability; 0 keeps all.
    typical : float or array, shape (R,), float32
        Keep the fewest tokens with -log p closest to the entropy whose probabilities reach it.
    eta : float or array, shape (R,), float32
        Keep p of ``min(eta, sqrt(eta) * exp(-entropy))`` or more.
    bitmask : array, shape (R, ceil(V / 32)), int32 | uint32, optional
        Bit ``v % 32`` of word ``v // 32`` allows token v.
    stream, draw : int
        Purpose of the random number (`fewstep.noise`), and its number at the position.
    out : array, shape (R,), int32, optional
        Written in place and returned.
    logprobs : array, shape (R,), float32, optional
        Where to write the tokens' log-probabilities under the filtered law.
    status : array, shape (R,), int32, optional
        Where to write why a row has no token: 0 it has, 1 NaN, 2 infinite, 3 nothing allowed.

    Returns
    -------
    array, shape (R,), int32
        `out`; or a new array of the logits' kind and device. -1 where a row has no law.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    Filters apply in the order of the parameters, each to what the former left (as in transformers
    5); ties go to the lower id, and one token always stays. The same token alone or in a batch, on
    any number of threads, with every kernel variant. Allocates nothing with `out`.

    On CUDA nobody reads parameters per row before: one outside of its range is cut to it, NaN turns
    its filter off. Weights and their sums are the CPU's; the token may be another one where a draw
    or a filter's edge lies within the rounding of float64.

    References
    ----------
    .. [1] Devroye, "Non-Uniform Random Variate Generation", 1986, II.2 (inversion).
    .. [2] Holtzman et al., arXiv 1904.09751 (top-p); Nguyen et al., arXiv 2407.01082 (min-p);
       Meister et al., arXiv 2202.00666 (typical); Hewitt et al., arXiv 2210.15191 (eta).

    Examples
    --------
    >>> logits = np.log(np.array([[0.1, 0.6, 0.3]] * 4, np.float32))
    >>> fewstep.logits.sample(logits, seeds=[1, 2, 3, 4], temperature=0.0)
    array([1, 1, 1, 1], dtype=int32)
    >>> fewstep.logits.sample(logits, seeds=[1, 2, 3, 4], positions=7)
    array([2, 1, 1, 0], dtype=int32)
    """
    rows = shape_of("fewstep.logits.sample", "logits", logits)[0]
    seeds = row_numbers(seeds, rows, "int64", logits)
    positions = row_numbers(positions, rows, "int32", logits)
    if out is None:
        out = empty((rows,), "int32", logits)
    filters = (temperature, top_k, top_p, min_p, typical, eta)
    inputs, outputs = (logits, seeds, positions, bitmask), (out, logprobs, status)
    _core.logits_sample(filters, stream, draw, inputs, outputs)
    return out
