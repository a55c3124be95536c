# SPDX-License-Identifier: Apache-2.0
"""The best tokens of rows of logits; `fewstep.logits` re-exports this."""

from __future__ import annotations

from typing import Any, NamedTuple

from fewstep import _core
from fewstep._arrays import empty, shape_of


class TopK(NamedTuple):
    """The best tokens of each row, found by `top_k`."""

    ids: Any
    values: Any


def top_k(
    logits: Any,
    k: int,
    *,
    normalise: bool = False,
    bitmask: Any = None,
    ids: Any = None,
    values: Any = None,
    log_normaliser: Any = None,
    status: Any = None,
) -> TopK:
    """Find the k best tokens of each row, without sorting a vocabulary.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
    k : int
        From 1 to 1024; what `ids` or `values` has, where given.
    normalise : bool
        Give log-probabilities in place of logits.
    bitmask : array, shape (R, ceil(V / 32)), int32 | uint32, optional
        Bit ``v % 32`` of word ``v // 32`` allows token v.
    ids : array, shape (R, k), int32, optional
        Written in place and returned, as is `values`.
    values : array, shape (R, k), float32, optional
        See Returns.
    log_normaliser : array, shape (R,), float32, optional
        Where to write ``log(sum(exp(logits)))`` of each row, masked tokens left out.
    status : array, shape (R,), int32, optional
        Where to write why a row has no tokens: 0 it has, 1 NaN, 2 infinite, 3 nothing allowed.

    Returns
    -------
    TopK
        ``ids``, the best first, of equal ones the lower id; ``values``, their logits or
        log-probabilities. Where fewer than k are above -inf, -1 and -inf; -1 and NaN in a row with
        a NaN or +inf or where nothing is allowed.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    One pass over memory; a sum, where asked for, is a second one over the caches. The same bits
    alone or in a batch, on any number of threads, with every kernel variant. Allocates nothing with
    `ids` and `values`.

    Examples
    --------
    >>> logits = np.log(np.array([[0.1, 0.6, 0.3], [0.25, 0.5, 0.25]], np.float32))
    >>> fewstep.logits.top_k(logits, 2).ids
    array([[1, 2],
           [1, 0]], dtype=int32)
    >>> np.exp(fewstep.logits.top_k(logits, 2, normalise=True).values).round(3)
    array([[0.6 , 0.3 ],
           [0.5 , 0.25]], dtype=float32)
    """
    rows = shape_of("fewstep.logits.top_k", "logits", logits)[0]
    if ids is None:
        ids = empty((rows, k), "int32", logits)
    if values is None:
        values = empty((rows, k), "float32", logits)
    _core.logits_top_k(normalise, (logits, bitmask), (ids, values, log_normaliser, status))
    return TopK(ids, values)
