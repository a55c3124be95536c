# SPDX-License-Identifier: Apache-2.0
"""Penalties and biases of logits; `fewstep.logits` re-exports this."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep import _core
from fewstep._arrays import empty_like, is_array, shape_of
from fewstep._sampling import row_numbers


def _flat(lists: Any, like: Any) -> tuple[Any, Any]:
    """Return a list for each row as ids one after the other and where each row's begin."""
    sizes = [len(one) for one in lists]
    ids = [token for one in lists for token in one]
    indptr = np.cumsum([0, *sizes])
    return row_numbers(ids, len(ids), "int32", like), row_numbers(indptr.tolist(), 0, "int32", like)


def penalise(
    logits: Any,
    tokens: Any = None,
    indptr: Any = None,
    *,
    counts: Any = None,
    repetition: Any = 1.0,
    presence: Any = 0.0,
    frequency: Any = 0.0,
    bias_ids: Any = None,
    bias_values: Any = None,
    bias_indptr: Any = None,
    out: Any = None,
) -> Any:
    """Add a sparse bias to logits and penalise the tokens of each row's history.

    A token of the history goes from x, its logit with its bias, to ``x / repetition`` if that is
    above 0 else ``x * repetition``, less ``frequency * count``, less `presence` if count is above
    0. Other logits stay, bit for bit.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
    tokens : array, shape (T,), int32, or a sequence of int for each row, optional
        The histories, one after the other; ids below 0 are passed over.
    indptr : array, shape (R + 1,), int32, optional
        Row r has ``tokens[indptr[r]:indptr[r + 1]]``; with `tokens` as an array.
    counts : array, shape (T,), int32, optional
        How often each token counts, 1 when left out; with 0 it is penalised for repetition alone,
        as a prompt's tokens are.
    repetition, presence, frequency : float or array, shape (R,), float32
        The penalties; 1, 0 and 0 change nothing.
    bias_ids, bias_values : array, shape (M,), int32 and float32, optional
        What to add to which logit, before the penalties.
    bias_indptr : array, shape (R + 1,), int32, optional
        Row r has biases ``[bias_indptr[r], bias_indptr[r + 1])``; every row has all when left out.
    out : array, shape (R, V), optional
        Written in place and returned; may be `logits` itself.

    Returns
    -------
    array, shape (R, V)
        `out`; or a new array of the logits' kind, device and dtype.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    Computed in float32 and rounded once, however often a token is named. In place only named
    logits are touched. A row's result depends on no other row, thread or kernel variant. Allocates
    nothing with `out` and all others given as arrays. On CUDA nobody reads the lists before: an id
    that is no token's is passed over, a count below 0 is 0.

    References
    ----------
    .. [1] Keskar et al., "CTRL", arXiv 1909.05858, 4.1 (repetition, here for logits of either
       sign, as in transformers).
    .. [2] OpenAI, API reference: presence and frequency penalties, logit bias.

    Examples
    --------
    >>> logits = np.array([[4.0, -1.0, 3.0, 2.0]], np.float32)
    >>> fewstep.logits.penalise(logits, [[0, 1, 0]], repetition=2.0, frequency=0.25)
    array([[ 1.5 , -2.25,  3.  ,  2.  ]], dtype=float32)
    >>> ban = {"bias_ids": np.array([2], np.int32), "bias_values": np.array([-np.inf], np.float32)}
    >>> fewstep.logits.penalise(logits, **ban, out=logits)
    array([[  4.,  -1., -inf,   2.]], dtype=float32)
    """
    shape_of("fewstep.logits.penalise", "logits", logits)
    if tokens is not None and indptr is None and not is_array(tokens):
        tokens, indptr = _flat(tokens, logits)
    if out is None:
        out = empty_like(logits)
    inputs = (logits, tokens, indptr, counts, bias_ids, bias_values, bias_indptr)
    _core.logits_penalise((repetition, presence, frequency), inputs, (out,))
    return out
