# SPDX-License-Identifier: Apache-2.0
"""Random growth of draft trees; `fewstep.tree` re-exports it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep._arrays import empty, is_torch, shape_of
from fewstep._trees import ends_of

LAWS = ("iid", "without_replacement", "stochastic_beam")


class Draws(NamedTuple):
    """Children drawn by `sample_children`."""

    draws: Any
    logq: Any
    perturbed: Any
    beam: Any
    status: Any


class Merged(NamedTuple):
    """Distinct children and the ordered list of draws; see `merge_draws`."""

    tokens: NDArray[np.int32]
    row: NDArray[np.int32]
    draw_node: NDArray[np.int32]
    draw_indptr: NDArray[np.int32]


def sample_children(
    logits: Any,
    law: str,
    k: int,
    seeds: Any,
    positions: Any,
    *,
    beam: Any = None,
    indptr: Any = None,
    node: Any = None,
    cum_logp: Any = None,
    parent_perturbed: Any = None,
    d2t: Any = None,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    typical: Any = 1.0,
    eta: Any = 0.0,
    draws: Any = None,
    logq: Any = None,
    perturbed: Any = None,
    status: Any = None,
) -> Draws:
    """Draw k children of every frontier row from the drafter's law, by per-request seeds.

    Parameters
    ----------
    logits : array, shape (R, V); float32 | float16 | bfloat16
        The drafter's logits of each frontier row.
    law : {"iid", "without_replacement", "stochastic_beam"}
        Independent draws with repeats; the Gumbel top-k of each row (RSD-C); that of whole paths
        (RSD-S). `fewstep.tree.verify` must be told.
    k : int
        Children of each row, 1 to 64.
    seeds : array, shape (B,), int64 | uint64
        One per request.
    positions : array, shape (R,), int32
        Position of each row's node in its sequence.
    beam : int or array, shape (B, M), int32, optional
        How many of each request's children to choose, 1 to 64, or where to write them; not with
        independent draws.
    indptr : array, shape (B + 1,), int32, optional
        Request b has rows ``indptr[b]`` to ``indptr[b + 1] - 1``; one request when left out.
    node : array, shape (R,), int32, optional
        A number that tells rows of one request and position apart, such as the node's index; the
        row within the request when left out.
    cum_logp : array, shape (R,), float32, optional
        Log-probability of each row's path, which the stochastic beam needs below the root; a row
        of -inf has no draws.
    parent_perturbed : array, shape (R,), float32, optional
        Perturbed log-probability of each row's node; stochastic beam only, 0 when left out.
    d2t : array, shape (V,), int32, optional
        Id in the target's vocabulary of each id of the drafter's; below 0 for none.
    temperature, top_k, top_p, min_p, typical, eta : number or array, shape (B,)
        Filters of the drafter's law, as in `fewstep.logits.sample`.
    draws : array, shape (R, k), int32, optional
        Written in place, as are all that follow; allocated when left out.
    logq, perturbed : array, shape (R, k), float32, optional
        See Returns; `perturbed` not with independent draws.
    status : array, shape (R,), int32, optional
        See Returns.

    Returns
    -------
    Draws
        ``draws`` in draw order; ``logq``, the log-probability of each under the
        law drawn from; ``perturbed``, descending (None with independent draws); ``beam``: of a
        request's children the best by ``perturbed``, as row within the request times k plus draw,
        or None; ``status``: why a row has no draws, as in `fewstep.logits.sample`, 0 where it has
        a law. Where there are fewer: -1 and -inf.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    Random numbers are Philox words of (seed, position, node, token) in the stream of drafts: they
    depend on no batch, thread or kernel variant, and share nothing with those of verification.
    Decisions are taken in float64. `fewstep.logits.renorm` with the same filters gives the law
    that is drawn from. On CUDA it is as with `fewstep.logits.sample`; nobody reads `indptr` before,
    and a row that no request has gets no draws.

    References
    ----------
    .. [1] Jeon et al., "Recursive speculative decoding: accelerating LLM inference via sampling
       without replacement", arXiv 2402.14160.
    .. [2] Kool, van Hoof, Welling, "Stochastic beams and where to find them", arXiv 1903.06059.

    Examples
    --------
    >>> logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    >>> where = {"seeds": np.array([3]), "positions": np.array([17], np.int32)}
    >>> d = fewstep.tree.sample_children(logits, "without_replacement", 4, **where)
    >>> sorted(d.draws[0].tolist())
    [0, 1, 2, 3]
    >>> bool((np.exp(d.logq[0]) == np.exp(logits[0])[d.draws[0]]).all())
    True
    """
    if law not in LAWS:
        raise ValueError(
            f"fewstep.tree.sample_children: 'law' must be one of {', '.join(LAWS)}, got {law!r}"
        )
    (rows, *_) = shape_of("fewstep.tree.sample_children", "logits", logits)
    if indptr is None:
        indptr = ends_of(rows, logits)
    if isinstance(beam, int):
        beam = empty((len(indptr) - 1, beam), "int32", logits)
    draws = empty((rows, k), "int32", logits) if draws is None else draws
    logq = empty((rows, k), "float32", logits) if logq is None else logq
    if perturbed is None and law != "iid":
        perturbed = empty((rows, k), "float32", logits)
    status = empty((rows,), "int32", logits) if status is None else status
    inputs = (logits, indptr, seeds, positions, node, cum_logp, parent_perturbed, d2t)
    filters = (temperature, top_k, top_p, min_p, typical, eta)
    outputs = (draws, logq, perturbed, beam, status)
    _core.tree_sample_children(LAWS.index(law), filters, inputs, outputs)
    return Draws(draws, logq, perturbed, beam, status)


def merge_draws(draws: Any) -> Merged:
    """Merge repeated draws of a row into one child each, and keep the ordered list of draws.

    Rules that draw with replacement are exact only if every draw is tested in its order, repeats
    included; the tree needs each token once.

    Parameters
    ----------
    draws : array, shape (R, k), int32
        Of `sample_children`; -1 for none.

    Returns
    -------
    Merged
        ``tokens`` and ``row`` of the C distinct children, row by row in the order of their first
        draws; ``draw_node``: the child of every draw, counted from 0; ``draw_indptr``, shape
        (R + 1,): which draws are of which row.

    Examples
    --------
    >>> fewstep.tree.merge_draws(np.array([[5, 7, 5], [7, -1, -1]], np.int32))
    Merged(tokens=array([5, 7, 7], dtype=int32), row=array([0, 0, 1], dtype=int32), \
draw_node=array([0, 1, 0, 2], dtype=int32), draw_indptr=array([0, 3, 4], dtype=int32))
    """
    given = draws.cpu().numpy() if is_torch(draws) else draws
    children: dict[tuple[int, int], int] = {}
    draw_node, ends = [], [0]
    for r, own in enumerate(given.tolist()):
        draw_node += [children.setdefault((r, v), len(children)) for v in own if v >= 0]
        ends.append(len(draw_node))
    pairs = np.array(list(children), np.int32).reshape(len(children), 2)
    return Merged(
        pairs[:, 1].copy(), pairs[:, 0].copy(), np.array(draw_node, np.int32),
        np.array(ends, np.int32),
    )  # fmt: skip
