# SPDX-License-Identifier: Apache-2.0
"""Growth of deterministic draft trees; `fewstep.tree` re-exports it."""

from __future__ import annotations

from typing import Any, NamedTuple

from fewstep import _core
from fewstep._arrays import empty, shape_of
from fewstep._trees import ends_of


class Expansion(NamedTuple):
    """Children of a frontier and the next frontier; see `expand`."""

    ids: Any
    logp: Any
    beam_ids: Any
    beam_logp: Any
    beam_parent: Any
    status: Any


class Kept(NamedTuple):
    """Nodes that `rerank` keeps."""

    kept: Any
    parent: Any
    indptr: Any


def expand(
    cum_logp: Any,
    logits: Any,
    k: int,
    *,
    beam: int | None = None,
    indptr: Any = None,
    d2t: Any = None,
    ids: Any = None,
    logp: Any = None,
    beam_ids: Any = None,
    beam_logp: Any = None,
    beam_parent: Any = None,
    status: Any = None,
) -> Expansion:
    """Find the k best children of every frontier row, and the best of each request's, in one pass.

    Parameters
    ----------
    cum_logp : array, shape (R,), float32
        Log-probability of each frontier row's path under the drafter; 0 at a root. A row of -inf
        has no children.
    logits : array, shape (R, V); float32 | float16 | bfloat16
        The drafter's logits there.
    k : int
        Children of each row, 1 to 64.
    beam : int, optional
        Rows of each request's next frontier, 1 to 64; k when left out.
    indptr : array, shape (B + 1,), int32, optional
        Request b has rows ``indptr[b]`` to ``indptr[b + 1] - 1``; one request when left out.
    d2t : array, shape (V,), int32, optional
        Id in the target's vocabulary of each id of the drafter's; below 0 for none.
    ids : array, shape (R, k), int32, optional
        Written in place, as are all that follow; allocated when left out.
    logp : array, shape (R, k), float32, optional
        See Returns.
    beam_ids, beam_parent : array, shape (B, beam), int32, optional
        See Returns.
    beam_logp : array, shape (B, beam), float32, optional
        See Returns.
    status : array, shape (R,), int32, optional
        See Returns.

    Returns
    -------
    Expansion
        ``ids`` and ``logp = cum_logp + log softmax(logits)`` of each row's best tokens, best
        first: the candidates for `rerank`. ``beam_ids``, ``beam_logp`` and ``beam_parent`` (the
        row within the request) of the best of all a request's candidates: the next frontier.
        Where there are fewer, ids and parents are -1, log-probabilities -inf. ``status``: why a
        row has no children, as in `fewstep.logits.sample`; 0 where it has a law.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    Ties go to the lower id, then to the earlier row. Exponentials in float32, sums and logarithm
    in float64; the same bits alone or in a batch, on any number of threads, with every kernel
    variant. Allocates nothing with all outputs and `indptr` given. On CUDA the logarithm may be
    rounded otherwise, and nobody reads `indptr` before: a request whose rows are not there has no
    beam.

    References
    ----------
    .. [1] Li et al., "EAGLE-2: faster inference of language models with dynamic draft trees",
       arXiv 2406.16858, section 4.1.
    .. [2] Zhang et al., "Learning harmonized representations for speculative sampling" (HASS),
       arXiv 2408.15766.

    Examples
    --------
    >>> logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], np.float32))
    >>> e = fewstep.tree.expand(np.log(np.array([0.5, 0.5], np.float32)), logits, 2)
    >>> e.ids
    array([[0, 1],
           [2, 0]], dtype=int32)
    >>> e.beam_ids, e.beam_parent, np.exp(e.beam_logp).round(3)
    (array([[2, 0]], dtype=int32), array([[1, 0]], dtype=int32), \
array([[0.375, 0.25 ]], dtype=float32))
    """
    (rows, *_) = shape_of("fewstep.tree.expand", "logits", logits)
    if indptr is None:
        indptr = ends_of(rows, logits)
    many = (len(indptr) - 1, k if beam is None else beam)
    ids = empty((rows, k), "int32", logits) if ids is None else ids
    logp = empty((rows, k), "float32", logits) if logp is None else logp
    beam_ids = empty(many, "int32", logits) if beam_ids is None else beam_ids
    beam_logp = empty(many, "float32", logits) if beam_logp is None else beam_logp
    beam_parent = empty(many, "int32", logits) if beam_parent is None else beam_parent
    status = empty((rows,), "int32", logits) if status is None else status
    _core.tree_expand(
        cum_logp, logits, indptr, d2t, ids, logp, beam_ids, beam_logp, beam_parent, status
    )
    return Expansion(ids, logp, beam_ids, beam_logp, beam_parent, status)


def rerank(
    cum_logp: Any,
    parent: Any,
    budget: Any,
    *,
    indptr: Any = None,
    kept: Any = None,
    kept_parent: Any = None,
    kept_indptr: Any = None,
    workspace: Any = None,
) -> Kept:
    """Keep the best nodes of each request's candidate tree, ancestors always among them.

    Parameters
    ----------
    cum_logp : array, shape (M,), float32
        Log-probability of each candidate's path; a root's is not read. -inf or NaN drops a node
        and all below it.
    parent : array, shape (M,), int32
        Their trees, as for `build`.
    budget : int or array, shape (B,), int32
        Nodes to keep of each request, the root included.
    indptr : array, shape (B + 1,), int32, optional
        Request b has candidates ``indptr[b]`` to ``indptr[b + 1] - 1``; one request when left out.
    kept, kept_parent : array, shape (N,), int32, optional
        Written in place, -1 behind the last; N not below what the budgets allow.
    kept_indptr : array, shape (B + 1,), int32, optional
        Written in place.
    workspace : array, shape (W,), int64, optional
        Scratch of 2 M elements or more; allocated when left out.

    Returns
    -------
    Kept
        ``kept``: rows of the kept nodes, ascending, so ``tokens[kept]`` are theirs; ``parent``:
        their parents within what is kept of the request; ``indptr`` of both. Cut to what is kept
        where they were allocated here.

    Raises
    ------
    ValueError
        A tree, shape, dtype, value or overlap that is not as described; the message names the
        argument.
    TypeError
        Something is not an array.

    Notes
    -----
    Ties go to the lower index. A node counts as no better than its parent, so the result is a tree
    even where log-probabilities are not those of paths. Allocates nothing with `indptr`, `budget`,
    all outputs and `workspace` given as arrays. On CUDA nobody reads the tree before: a parent that
    is no earlier node is taken for none.

    References
    ----------
    .. [1] Li et al., "EAGLE-2", arXiv 2406.16858, section 4.2.

    Examples
    --------
    >>> parent = np.array([-1, 0, 0, 1, 1, 2], np.int32)
    >>> logp = np.log(np.array([1, 0.3, 0.7, 0.2, 0.1, 0.6], np.float32))
    >>> fewstep.tree.rerank(logp, parent, 4)
    Kept(kept=array([0, 1, 2, 5], dtype=int32), parent=array([-1,  0,  0,  2], dtype=int32), \
indptr=array([0, 4], dtype=int32))
    """
    (count, *_) = shape_of("fewstep.tree.rerank", "parent", parent)
    if indptr is None:
        indptr = ends_of(count, parent)
    if isinstance(budget, int):
        limit, budget = budget, empty((len(indptr) - 1,), "int32", parent)
        budget[:] = limit
        room = min(count, max(0, limit) * (len(indptr) - 1))
    else:
        room = count
    cut = kept is None and kept_parent is None
    kept = empty((room,), "int32", parent) if kept is None else kept
    kept_parent = empty((len(kept),), "int32", parent) if kept_parent is None else kept_parent
    if kept_indptr is None:
        kept_indptr = empty((len(indptr),), "int32", parent)
    if workspace is None:
        workspace = empty((_core.tree_rerank_workspace_bytes(count) // 8,), "int64", parent)
    _core.tree_rerank(cum_logp, parent, indptr, budget, kept, kept_parent, kept_indptr, workspace)
    if cut:
        nodes = int(kept_indptr[-1])
        kept, kept_parent = kept[:nodes], kept_parent[:nodes]
    return Kept(kept, kept_parent, kept_indptr)
