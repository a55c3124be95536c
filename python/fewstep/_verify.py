# SPDX-License-Identifier: Apache-2.0
"""Verification of draft trees; `fewstep.tree` re-exports this."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fewstep import _core
from fewstep._arrays import empty, is_torch, shape_of
from fewstep._sampling import row_numbers

RULES = (
    "greedy", "match", "target_only", "chain", "rrs", "k_seq", "block", "canonical", "typical",
    "adjusted_target",
)  # fmt: skip
LAWS = ("deterministic", "iid", "without_replacement", "external_weights")


class Verified(NamedTuple):
    """What `verify` found.

    Attributes
    ----------
    path : array, shape (B, D), int32
        The accepted nodes, -1 behind the last.
    accepted : array, shape (B,), int32
        How many there are.
    next_token : array, shape (B,), int32
        The token that follows them; -1 where a row had no law.
    """

    path: Any
    accepted: Any
    next_token: Any


def _choice(name: str, value: str, choices: tuple[str, ...]) -> int:
    if value not in choices:
        raise ValueError(
            f"fewstep.tree.verify: '{name}' must be one of {', '.join(choices)}, got {value!r}"
        )
    return choices.index(value)


def _depth(parent: Any, indptr: Any) -> int:
    """Return the depth of the deepest tree: the columns that a path needs."""
    parents = parent.cpu().numpy() if is_torch(parent) else np.asarray(parent)
    begins = (indptr.cpu().numpy() if is_torch(indptr) else np.asarray(indptr)).tolist()
    deepest = 0
    for begin, end in pairwise(begins):
        levels = [0] * max(end - begin, 1)
        for i, p in enumerate(parents[begin:end].tolist()):
            levels[i] = levels[p] + 1 if 0 <= p < i else 0
        deepest = max(deepest, *levels, 0)
    return deepest


def verify(
    parent: Any,
    indptr: Any,
    token: Any,
    logits: Any,
    seeds: Any,
    positions: Any,
    *,
    rule: str = "target_only",
    law: str = "deterministic",
    draft: Any = None,
    draft_ids: Any = None,
    draft_row: Any = None,
    draw_indptr: Any = None,
    draw_node: Any = None,
    draw_weight: Any = None,
    epsilon: float = 0.09,
    delta: float = 0.3,
    strength: float = 10.0,
    share: float = 0.1,
    temperature: Any = 1.0,
    top_k: Any = 0,
    top_p: Any = 1.0,
    min_p: Any = 0.0,
    typical: Any = 1.0,
    eta: Any = 0.0,
    bitmask: Any = None,
    target_token: Any = None,
    path: Any = None,
    accepted: Any = None,
    next_token: Any = None,
    logprobs: Any = None,
    status: Any = None,
) -> Verified:
    """Verify draft trees against the target's logits.

    From the root on, the rule accepts one of a node's children or none; then the next token is
    drawn from the law that is left. But with ``typical`` and ``adjusted_target``, which are meant
    to change it, the tokens on the path and the next one have the law that the target alone would
    have given them, whatever the drafts were.

    Parameters
    ----------
    parent : array, shape (N,), int32
        Index of each node's parent in its request, -1 at the root, parents before children. The
        root is the last committed token.
    indptr : array, shape (B + 1,), int32
        Request b has nodes ``indptr[b]`` to ``indptr[b + 1] - 1``.
    token : array, shape (N,), int32
        Of each node; a negative one is never accepted.
    logits : array, shape (N, V); float32 | float16 | bfloat16
        The target's, after each node. Only rows on the accepted path are read. None with
        `target_token`.
    seeds : array or sequence of int, shape (B,), int64 | uint64
    positions : array, sequence of int or int, shape (B,), int32
        Where in its sequence the first token after the root stands.
    rule : str
        ``greedy``: the target's best token. ``match``: the token that `fewstep.logits.sample` draws
        with the same seed and position. ``target_only``: a child with its target probability.
        ``chain``: one draw a node, accepted with ``min(1, p / q)``. ``rrs``: the same, draw after
        draw (recursive rejection sampling). ``k_seq``: SpecTr's. ``block``: one draw a node, the
        longest prefix of a chain that passes a test of all its ratios together; accepts no fewer
        than ``chain`` on average. ``canonical``: one draw is picked by its weight, then as
        ``chain``. Lossy: ``typical`` (Medusa) accepts the longest path of children with
        ``p > min(epsilon, delta * exp(-entropy))``; ``adjusted_target`` (RAPID) is ``chain`` with p
        moved towards q.
    law : str
        How children came about: ``deterministic`` (chosen), ``iid``, ``without_replacement``, or
        ``external_weights``: in any way, one of them picked by `draw_weight`. ``rrs`` and
        ``adjusted_target`` need one of the second and third, ``k_seq`` the second, ``canonical``
        the last, ``chain`` and ``block`` any but the last.
    draft : array, shape (M, S), float32
        Probabilities that children were really drawn from, for ``chain``, ``block``, ``rrs``,
        ``k_seq`` and ``adjusted_target``; for ``canonical`` those of the draw that is picked.
    draft_ids : array, shape (M, S) or (1, S), int32, optional
        Tokens of the columns of `draft`, ascending: a compact support, or a draft vocabulary.
    draft_row : array, shape (N,), int32, optional
        The row of `draft` that a node's children were drawn from; row i for node i by default.
    draw_indptr : array, shape (N + 1,), int32, optional
        ``draw_node[draw_indptr[i]:draw_indptr[i + 1]]`` are the draws at node i in their order.
        With independent draws a child that was drawn twice stands there twice: without that the
        result would be biased. By default each child was drawn once, in the order of indices.
    draw_node : array, shape (K,), int32, optional
        Indices of nodes in their request.
    draw_weight : array, shape (K,), float32, optional
        Relative chances with which ``canonical`` picks one of a node's draws.
    epsilon, delta : float
        Of ``typical``: the largest probability that is asked for, and the share of
        ``exp(-entropy)``.
    strength, share : float
        Of ``adjusted_target``: p becomes ``p * exp(strength * (q - p))``, normalised, where
        ``q >= share * max(q)``. The first is 80 at most.
    temperature, top_k, top_p, min_p, typical, eta : number or array, shape (B,)
        Filters of the target's law, as in `fewstep.logits.sample`.
    bitmask : array, shape (N, ceil(V / 32)), int32 | uint32, optional
        Allowed tokens after each node.
    target_token : array, shape (N,), int32, optional
        The target's token after each node in place of its logits, as `fewstep.logits.head_top_k` or
        a sampler has found it; below 0 where it has none. For ``greedy`` and ``match``, without
        `bitmask` and `logprobs`.
    path : array, shape (B, D), int32, optional
        Written in place; D is the depth of the deepest tree or more. Allocated when left out, for
        which `parent` is read.
    accepted, next_token : array, shape (B,), int32, optional
        Written in place.
    logprobs : array, shape (B, D + 1), float32, optional
        Where to write the log-probabilities of the path's tokens and the next one.
    status : array, shape (B,), int32, optional
        Where to write why a path ended without a next token, as in `fewstep.logits.sample`.

    Returns
    -------
    Verified
        ``path``, ``accepted``, ``next_token``.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that is not as described, or a rule that is not one
        for the law; the message names the argument.
    TypeError
        Something is not an array.

    Notes
    -----
    The same tokens alone or in a batch, on any number of threads, with every kernel variant. Draft,
    acceptance, residual and bonus draws use random numbers that no other draw uses. Allocates
    nothing with `path`, `accepted` and `next_token`. On CUDA nobody reads indices before: nodes
    that are no children, draws that are none and rows that are not there are passed over, and a
    path ends with the columns of `path`; filters are as with `fewstep.logits.sample`.

    References
    ----------
    .. [1] Chen et al., arXiv 2302.01318; Leviathan et al., arXiv 2211.17192 (chain).
    .. [2] Miao et al., "SpecInfer", arXiv 2305.09781; Jeon et al., arXiv 2402.14160 (rrs).
    .. [3] Sun et al., "SpecTr", arXiv 2310.15141 (k_seq).
    .. [4] Li et al., "EAGLE", arXiv 2401.15077 (target_only).
    .. [5] Sun et al., "Block verification accelerates speculative decoding", arXiv 2403.10444.
    .. [6] Khisti et al., "Multi-draft speculative sampling: canonical architectures and
       theoretical limits", arXiv 2410.18234.
    .. [7] Cai et al., "Medusa", arXiv 2401.10774, section 2.3.1 (typical).
    .. [8] Chen et al., "Long-context inference with retrieval-augmented speculative decoding",
       arXiv 2502.20330 (adjusted_target).

    Examples
    --------
    A chain of two drafts, of which the target likes the first.

    >>> parent, indptr = np.array([-1, 0, 1], np.int32), np.array([0, 3], np.int32)
    >>> token = np.array([0, 1, 2], np.int32)
    >>> logits = np.array([[0, 5, 0], [5, 0, 0], [0, 0, 5]], np.float32)
    >>> found = fewstep.tree.verify(parent, indptr, token, logits, [1], [0], rule="greedy")
    >>> found.path, found.accepted, found.next_token
    (array([[ 1, -1]], dtype=int32), array([1], dtype=int32), array([0], dtype=int32))
    """
    requests = shape_of("fewstep.tree.verify", "indptr", indptr)[0] - 1
    like = logits if target_token is None else target_token
    seeds = row_numbers(seeds, requests, "int64", like)
    positions = row_numbers(positions, requests, "int32", like)
    if path is None:
        path = empty((requests, _depth(parent, indptr)), "int32", like)
    if accepted is None:
        accepted = empty((requests,), "int32", like)
    if next_token is None:
        next_token = empty((requests,), "int32", like)
    inputs = (
        parent, indptr, token, logits, seeds, positions, target_token, bitmask, draft, draft_ids,
        draft_row, draw_indptr, draw_node, draw_weight,
    )  # fmt: skip
    filters = (temperature, top_k, top_p, min_p, typical, eta)
    outputs = (path, accepted, next_token, logprobs, status)
    rule_number, law_number = _choice("rule", rule, RULES), _choice("law", law, LAWS)
    params = (epsilon, delta, strength, share)
    _core.tree_verify(rule_number, law_number, params, filters, inputs, outputs)
    return Verified(path, accepted, next_token)
