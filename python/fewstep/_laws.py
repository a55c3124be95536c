# SPDX-License-Identifier: Apache-2.0
"""The law of filtered logits; `fewstep.logits` re-exports this."""

from __future__ import annotations

from typing import Any, NamedTuple

from fewstep import _core
from fewstep._arrays import empty, shape_of


class Support(NamedTuple):
    """The tokens of each row's filtered law, the likeliest first; see `renorm`."""

    ids: Any
    probabilities: Any
    count: Any


def renorm(
    logits: Any,
    k: int | None = None,
    *,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    typical: Any = 1.0,
    eta: Any = 0.0,
    bitmask: Any = None,
    out: Any = None,
    ids: Any = None,
    probabilities: Any = None,
    count: Any = None,
    status: Any = None,
) -> Any:
    """Return the law that `sample` draws from: all probabilities, or those of the kept tokens.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
    k : int, optional
        From 1 to 1024: list the kept tokens, up to k of them; with `ids` given, what that has.
    temperature, top_k, top_p, min_p, typical, eta : number or array, shape (R,)
        The filters of `sample`.
    bitmask : array, shape (R, ceil(V / 32)), int32 | uint32, optional
        Bit ``v % 32`` of word ``v // 32`` allows token v.
    out : array, shape (R, V), float32, optional
        Where to write all probabilities, zeros for what is not kept; returned if there is no list.
    ids : array, shape (R, k), int32, optional
        Written in place and returned, as are `probabilities` and `count`.
    probabilities : array, shape (R, k), float32, optional
        See Returns.
    count : array, shape (R,), int32, optional
        See Returns.
    status : array, shape (R,), int32, optional
        Where to write why a row has no law: 0 it has, 1 NaN, 2 infinite, 3 nothing allowed.

    Returns
    -------
    array or Support
        `out`; or a new array of the logits' kind and device. With a list a `Support`: ``ids`` and
        ``probabilities``, the likeliest first, of equal ones the lower id, then -1 and 0;
        ``count``, of all tokens with a probability above 0, which may exceed k. NaN, -1 and 0 in a
        row without a law.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    The same filters, kept tokens and weights as in `sample`, bit for bit, alone or in a batch, on
    any number of threads, with every kernel variant. A kept token whose weight is below 8e-39 times
    the largest has probability 0. Allocates nothing with all outputs given. On CUDA it
    is as with `sample`.

    Examples
    --------
    >>> logits = np.log(np.array([[0.125, 0.5, 0.25, 0.125]], np.float32))
    >>> fewstep.logits.renorm(logits, top_k=2).round(3)
    array([[0.   , 0.667, 0.333, 0.   ]], dtype=float32)
    >>> support = fewstep.logits.renorm(logits, 4, min_p=0.5)
    >>> support.ids, support.count
    (array([[ 1,  2, -1, -1]], dtype=int32), array([2], dtype=int32))
    """
    rows, *tokens = shape_of("fewstep.logits.renorm", "logits", logits)
    filters, inputs = (temperature, top_k, top_p, min_p, typical, eta), (logits, bitmask)
    if k is None and ids is None:
        out = empty((rows, *tokens), "float32", logits) if out is None else out
        _core.logits_renorm(filters, inputs, (out, ids, probabilities, count, status))
        return out
    if ids is None:
        ids = empty((rows, k or 0), "int32", logits)
    if probabilities is None:
        probabilities = empty(tuple(ids.shape), "float32", logits)
    count = empty((rows,), "int32", logits) if count is None else count
    support = Support(ids, probabilities, count)
    _core.logits_renorm(filters, inputs, (out, *support, status))
    return support
