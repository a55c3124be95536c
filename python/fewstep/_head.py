# SPDX-License-Identifier: Apache-2.0
"""Best tokens of a language model's head; `fewstep.logits` re-exports this."""

from __future__ import annotations

from typing import Any

from fewstep import _core
from fewstep._arrays import empty, shape_of
from fewstep._best import TopK
from fewstep.linear import Packed, check_packed, kind_index


def head_top_k(
    x: Any,
    packed: Packed,
    k: int,
    *,
    bias: Any = None,
    norm: Any = None,
    norm_eps: float = 1e-6,
    tokens: Any = None,
    normalise: bool = False,
    ids: Any = None,
    values: Any = None,
    log_normaliser: Any = None,
    status: Any = None,
    workspace: Any = None,
) -> TopK:
    """Find the k best tokens of a head for each hidden state, without its logits in memory.

    The same as ``top_k(linear.run(x, packed, ...), k)`` in float32. A drafter needs no more: its
    head may hold the rows of frequent tokens alone (FR-Spec), of which `tokens` are the ids.

    Parameters
    ----------
    x : array, shape (M, I); float32 | float16 | bfloat16
        Hidden states.
    packed : fewstep.linear.Packed
        The head's weight, of shape (O, I): from ``fewstep.linear.pack(weight)``, or of a subset
        ``fewstep.linear.pack(weight[tokens])``.
    k : int
        From 1 to 1024; what `ids` or `values` has, where given.
    bias : array, shape (O,), optional
        float32 | float16 | bfloat16.
    norm : array, shape (I,), optional
        The weight of the RMSNorm before the head; float32 | float16 | bfloat16.
    norm_eps : float
        Its epsilon, 0 or more.
    tokens : array, shape (O,), int32, optional
        The token of each packed row; row v is token v when left out.
    normalise : bool
        Give log-probabilities, over the packed rows, in place of logits.
    ids : array, shape (M, k), int32, optional
        Written in place and returned, as is `values`.
    values : array, shape (M, k), float32, optional
        See Returns.
    log_normaliser : array, shape (M,), float32, optional
        Where to write ``log(sum(exp(logits)))`` of each row.
    status : array, shape (M,), int32, optional
        Where to write why a row has no tokens, as in `top_k`.
    workspace : array, shape (W,), int64, optional
        Scratch; allocated when left out.

    Returns
    -------
    TopK
        ``ids`` and ``values``, the best first, of equal ones the lower token.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        `x` is not an array, or `packed` was not made by `fewstep.linear.pack`.

    Notes
    -----
    The weights are read from memory once for up to 70 rows. The same bits alone or in a batch and
    on any number of threads, and with every kernel variant as `fewstep.linear.run`. Allocates
    nothing with `ids`, `values` and `workspace`.

    References
    ----------
    .. [1] Zhao et al., "FR-Spec", arXiv 2502.14856.

    Examples
    --------
    >>> head = fewstep.linear.pack(np.array([[1, 0], [0, 1], [1, 1]], np.float32))
    >>> fewstep.logits.head_top_k(np.array([[1.0, 2.0]], np.float32), head, 2)
    TopK(ids=array([[2, 1]], dtype=int32), values=array([[3., 2.]], dtype=float32))
    """
    check_packed("fewstep.logits.head_top_k", "packed", packed)
    shape = shape_of("fewstep.logits.head_top_k", "x", x)
    outputs, inputs = packed.shape
    if len(shape) != 2 or shape[1] != inputs:
        raise ValueError(
            f"fewstep.logits.head_top_k: 'x' must have shape [M, {inputs}], got {list(shape)}"
        )
    if ids is None:
        ids = empty((shape[0], k), "int32", x)
    if values is None:
        values = empty((shape[0], k), "float32", x)
    kind = kind_index(packed)
    if workspace is None:
        needed = _core.logits_head_top_k_workspace_bytes(
            shape[0], outputs, inputs, kind, packed.group, k
        )
        workspace = empty((-(-needed // 8),), "int64", x)
    _core.logits_head_top_k(
        outputs, kind, packed.group, normalise, norm_eps, (x, packed.data, bias, norm, tokens),
        (ids, values, log_normaliser, status, workspace),
    )  # fmt: skip
    return TopK(ids, values)
