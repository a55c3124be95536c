# SPDX-License-Identifier: Apache-2.0
"""SpecTr's rho; `fewstep.tree` re-exports this."""

from __future__ import annotations

from typing import Any, NamedTuple

from fewstep import _core
from fewstep._arrays import empty, shape_of


class KSeqRho(NamedTuple):
    """SpecTr's rho of each row, and the chance that one of its draws is accepted."""

    rho: Any
    accept: Any


def k_seq_rho(
    logits: Any,
    draft: Any,
    k: int,
    *,
    draft_ids: Any = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    typical: Any = 1.0,
    eta: Any = 0.0,
    bitmask: Any = None,
    rho: Any = None,
    accept: Any = None,
    status: Any = None,
) -> KSeqRho:
    """Return what the rule ``k_seq`` of `verify` divides by, and how often a draw is accepted.

    With k independent draws from q, each accepted with ``min(1, p / (rho * q))``, it is the least
    rho from 1 up that leaves a law to draw the next token from:
    ``1 - (1 - accept)**k <= rho * accept`` with ``accept = sum(min(q, p / rho))``.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
        The target's.
    draft : array, shape (R, S) or (1, S), float32
        Probabilities that the draws come from.
    k : int
        Draws, from 1 to 256.
    draft_ids : array, shape (R, S) or (1, S), int32, optional
        Tokens of the columns of `draft`, ascending; column v is token v when left out.
    temperature, top_k, top_p, min_p, typical, eta : number or array, shape (R,)
        The filters of `fewstep.logits.sample`.
    bitmask : array, shape (R, ceil(V / 32)), int32 | uint32, optional
        Bit ``v % 32`` of word ``v // 32`` allows token v.
    rho, accept : array, shape (R,), float64, optional
        Written in place and returned.
    status : array, shape (R,), int32, optional
        Where to write why a row has no law, as in `fewstep.logits.sample`.

    Returns
    -------
    KSeqRho
        ``rho`` and ``accept``; NaN in a row without a law. One of the k draws is accepted with
        chance ``1 - (1 - accept)**k``.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    By bisection: `verify` does the same at each node that it visits, which is what ``k_seq`` costs.
    Least as far as weights of float32 tell: of many draws, or where q is near p, the chance that
    one is accepted hardly depends on rho, and any larger one is as exact.
    The same bits alone or in a batch, on any number of threads, with every kernel variant, but for
    filters on CUDA, which are as with `fewstep.logits.sample`. Allocates nothing with `rho` and
    `accept`.

    References
    ----------
    .. [1] Sun et al., "SpecTr: fast speculative decoding via optimal transport", arXiv 2310.15141,
       equation 5.

    Examples
    --------
    >>> logits = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    >>> found = fewstep.tree.k_seq_rho(logits, np.array([[1, 0, 0]], np.float32), 2)
    >>> found.rho.round(3), found.accept.round(3)
    (array([1.707]), array([0.293]))
    """
    (rows, *_) = shape_of("fewstep.tree.k_seq_rho", "logits", logits)
    rho = empty((rows,), "float64", logits) if rho is None else rho
    accept = empty((rows,), "float64", logits) if accept is None else accept
    filters = (temperature, top_k, top_p, min_p, typical, eta)
    inputs = (logits, bitmask, draft, draft_ids)
    _core.tree_k_seq_rho(k, filters, inputs, (rho, accept, status))
    return KSeqRho(rho, accept)
