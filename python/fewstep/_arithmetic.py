# SPDX-License-Identifier: Apache-2.0
"""Arithmetic sampling; `fewstep.logits` re-exports this."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep._arrays import empty, empty_like, is_array, is_torch, shape_of


class Decoded(NamedTuple):
    """Tokens that codes stand for, and what is left of the codes; see `sample_arithmetic`."""

    tokens: Any
    codes: Any


def arithmetic_codes(count: int, seed: int) -> NDArray[np.uint64]:
    """Return evenly spaced codes for `sample_arithmetic`, shifted together by a random number.

    Parameters
    ----------
    count : int
        Of sequences.
    seed : int
        Of the shift, which is uniform: so each sequence has the law of plain sampling.

    Returns
    -------
    array, shape (count,), uint64

    Examples
    --------
    >>> np.diff(fewstep.logits.arithmetic_codes(4, seed=1)) == 2**62
    array([ True,  True,  True])
    """
    shift = int(np.random.Philox(key=seed % 2**64).random_raw())
    codes = [(shift + (i << 64) // count) % 2**64 for i in range(count)]
    return np.array(codes, np.uint64)


def _as_codes(codes: Any, like: Any) -> Any:
    """Return codes as an array of the kind of `like`; arrays are passed on."""
    if is_array(codes) or hasattr(codes, "__dlpack__"):
        return codes
    array = np.array([int(code) % 2**64 for code in codes], np.uint64)
    if not is_torch(like):
        return array
    import torch

    return torch.from_numpy(array.view(np.int64)).to(like.device)


def sample_arithmetic(
    logits: Any,
    codes: Any,
    *,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    typical: Any = 1.0,
    eta: Any = 0.0,
    bitmask: Any = None,
    out: Any = None,
    next_codes: Any = None,
    logprobs: Any = None,
    status: Any = None,
) -> Decoded:
    """Decode the token that each row's code stands for, and the code of what follows it.

    A code is a number in [0, 1); its token is the one whose interval of the cumulative filtered law
    holds it, the next code where in that interval it lies. Evenly spaced codes give sequences that
    are spread evenly over all sequences, each with the law of plain sampling.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
    codes : array or sequence of int, shape (R,), int64 | uint64
        The number times 2**64, such as `arithmetic_codes` at the first token.
    temperature, top_k, top_p, min_p, typical, eta : number or array, shape (R,)
        The filters of `sample`.
    bitmask : array, shape (R, ceil(V / 32)), int32 | uint32, optional
        Bit ``v % 32`` of word ``v // 32`` allows token v.
    out : array, shape (R,), int32, optional
        The tokens; written in place and returned.
    next_codes : array, shape (R,), int64 | uint64, optional
        Written in place and returned; may be `codes` itself.
    logprobs : array, shape (R,), float32, optional
        Where to write the tokens' log-probabilities under the filtered law.
    status : array, shape (R,), int32, optional
        Where to write why a row has no token: 0 it has, 1 NaN, 2 infinite, 3 nothing allowed.

    Returns
    -------
    Decoded
        ``tokens``, -1 where a row has no law, and ``codes`` for the next call.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    Exact integer arithmetic on weights of float32: the same tokens and codes alone or in a batch,
    on any number of threads, with every kernel variant. A token whose weight is below V * 2**-61 or
    so of the largest is never drawn. A code has 64 bits: tokens that come after 64 bits of
    surprisal depend on it still, but codes are spread evenly no longer. Allocates nothing with all
    outputs given. On CUDA it is as with `sample`.

    References
    ----------
    .. [1] Vilnis et al., "Arithmetic sampling: parallel diverse decoding for large language
       models", arXiv 2210.15458.

    Examples
    --------
    >>> logits = np.log(np.array([[0.5, 0.25, 0.25]] * 4, np.float32))
    >>> codes = [0, 2**62, 2**63, 3 * 2**62]
    >>> tokens, codes = fewstep.logits.sample_arithmetic(logits, codes)
    >>> tokens
    array([0, 0, 1, 2], dtype=int32)
    >>> codes / 2**64
    array([0. , 0.5, 0. , 0. ])
    """
    rows = shape_of("fewstep.logits.sample_arithmetic", "logits", logits)[0]
    codes = _as_codes(codes, logits)
    out = empty((rows,), "int32", logits) if out is None else out
    next_codes = empty_like(codes) if next_codes is None else next_codes
    filters = (temperature, top_k, top_p, min_p, typical, eta)
    outputs = (out, next_codes, logprobs, status)
    _core.logits_sample_arithmetic(filters, (logits, codes, bitmask), outputs)
    return Decoded(out, next_codes)
