# SPDX-License-Identifier: Apache-2.0
"""Structure of draft trees; `fewstep.tree` re-exports it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fewstep import _core
from fewstep._arrays import empty, is_torch, shape_of


class Tree(NamedTuple):
    """Trees of a batch and what follows from their parents; see `build`."""

    parent: Any
    indptr: Any
    depth: Any
    first_child: Any
    next_sibling: Any
    positions: Any
    bits: Any


def ends_of(count: int, like: Any) -> Any:
    """Return the indptr of one request with `count` rows."""
    ends = np.array((0, count), np.int32)
    if not is_torch(like):
        return ends
    import torch

    return torch.from_numpy(ends).to(like.device)


def largest(indptr: Any) -> int:
    """Return the rows of the largest request; waits for the device where indptr is on one."""
    if is_torch(indptr) and indptr.device.type == "cpu":
        indptr = indptr.numpy()
    return int((indptr[1:] - indptr[:-1]).max()) if len(indptr) > 1 else 0


def build(
    parent: Any,
    indptr: Any = None,
    *,
    base: Any = None,
    max_depth: int | None = None,
    depth: Any = None,
    first_child: Any = None,
    next_sibling: Any = None,
    positions: Any = None,
    bits: Any = None,
) -> Tree:
    """Check trees given by their parents; derive depths, child links, positions and ancestor bits.

    Parameters
    ----------
    parent : array, shape (N,), int32
        Index of each node's parent within its request; -1 at the root, node 0, the last committed
        token. Parents come before their children.
    indptr : array, shape (B + 1,), int32, optional
        Request b has nodes ``indptr[b]`` to ``indptr[b + 1] - 1``, maybe none; one request when
        left out.
    base : array, shape (B,), int32, optional
        Position of each root in its sequence; 0 when left out.
    max_depth : int, optional
        Refuse a tree with a deeper node; the root's depth is 0.
    depth, first_child, next_sibling, positions : array, shape (N,), int32, optional
        Written in place; allocated when left out.
    bits : array, shape (N, W), int32 or uint32, optional
        Written in place, 32 W not below the nodes of any request; allocated when left out, as
        uint32 (int32 for torch) and as narrow as it can be, for which indptr is read.

    Returns
    -------
    Tree
        ``parent``, ``indptr``; ``depth``; ``first_child`` and ``next_sibling``, -1 for none,
        siblings in the order of their indices; ``positions = base + depth``; ``bits``: bit j of
        row i says that node j of the request is node i or an ancestor of it.

    Raises
    ------
    ValueError
        A parent that is no earlier node (so every cycle), a second root, a tree that is too deep,
        an `indptr` that does not ascend from 0 to N: the message names the node. A shape, dtype or
        overlap that is not as described.
    TypeError
        Something is not an array.

    Notes
    -----
    Grammar libraries walk a tree by first child and next sibling; `fewstep.tree.attention` reads
    ``bits`` and ``depth``. Allocates nothing with all outputs given. On CUDA nobody reads `parent`
    before: one that is no earlier node is taken for none, and `max_depth` is not looked at.

    References
    ----------
    .. [1] Miao et al., "SpecInfer", arXiv 2305.09781, section 4.

    Examples
    --------
    >>> t = fewstep.tree.build(np.array([-1, 0, 0, 1], np.int32))
    >>> t.depth, t.first_child, t.next_sibling
    (array([0, 1, 1, 2], dtype=int32), array([ 1,  3, -1, -1], dtype=int32), \
array([-1,  2, -1, -1], dtype=int32))
    >>> [bin(row[0]) for row in t.bits.tolist()]
    ['0b1', '0b11', '0b101', '0b1011']
    """
    (count, *_) = shape_of("fewstep.tree.build", "parent", parent)
    if max_depth is not None and max_depth < 0:
        raise ValueError(f"fewstep.tree.build: 'max_depth' must be 0 or more, got {max_depth}")
    if bits is None:
        nodes = count if indptr is None else max(0, largest(indptr))
        words = "int32" if is_torch(parent) else "uint32"
        bits = empty((count, (nodes + 31) // 32), words, parent)
    if indptr is None:
        indptr = ends_of(count, parent)
    shape = (count,)
    depth = empty(shape, "int32", parent) if depth is None else depth
    first_child = empty(shape, "int32", parent) if first_child is None else first_child
    next_sibling = empty(shape, "int32", parent) if next_sibling is None else next_sibling
    positions = empty(shape, "int32", parent) if positions is None else positions
    limit = -1 if max_depth is None else max_depth
    _core.tree_build(parent, indptr, base, limit, depth, first_child, next_sibling, positions, bits)
    return Tree(parent, indptr, depth, first_child, next_sibling, positions, bits)


def from_template(
    parent: Any,
    rank: Any,
    root: Any,
    *,
    table: Any = None,
    heads: Any = None,
    tokens: Any = None,
) -> Any:
    """Fill a tree of fixed shape from a table of successors or from each head's candidates.

    Token Recycling: ``tokens[b, i] = table[tokens[b, parent[i]], rank[i]]``. Medusa:
    ``tokens[b, i] = heads[b, depth(i) - 1, rank[i]]``. ``tokens[b, 0] = root[b]``.

    Parameters
    ----------
    parent : array, shape (Q,), int32
        The template's parents, as for `build`.
    rank : array, shape (Q,), int32
        Which of the K candidates a node is, 0 to K - 1; the root's is not read.
    root : array, shape (B,), int32
        Last committed token of each request.
    table : array, shape (V, K), int32, optional
        Successors of each token, -1 where none is known.
    heads : array, shape (B, H, K), int32, optional
        Candidates of each head; either this or `table`.
    tokens : array, shape (B, Q), int32, optional
        Written in place and returned.

    Returns
    -------
    array, shape (B, Q), int32
        `tokens`. -1 ends a branch: where a successor is not known (or lies outside of the table),
        and in all nodes below.

    Raises
    ------
    ValueError
        A template that is no tree, a rank, root or depth out of range, a shape, dtype or overlap
        that is not as described; the message names the argument and the node.
    TypeError
        Something is not an array.

    Notes
    -----
    Nodes without a token stay, so that the mask and positions of the template hold for every
    step; verification never accepts them, and a model that embeds them needs ``maximum(tokens,
    0)``. To drop them give `fewstep.tree.rerank` a log-probability of -inf for each.
    `fewstep.tree.TOKEN_RECYCLING` is the published template. Allocates nothing with `tokens`.

    References
    ----------
    .. [1] Luo et al., "Turning trash into treasure: accelerating inference of large language
       models with token recycling", arXiv 2408.08696, section 3.2.
    .. [2] Cai et al., "Medusa", arXiv 2401.10774, section 2.1.

    Examples
    --------
    >>> parent, rank = fewstep.tree.template([(0,), (1,), (0, 0)])
    >>> table = np.array([[1, 2], [2, -1], [-1, -1]], np.int32)
    >>> fewstep.tree.from_template(parent, rank, np.array([0, 1], np.int32), table=table)
    array([[ 0,  1,  2,  2],
           [ 1,  2, -1, -1]], dtype=int32)
    """
    if tokens is None:
        (nodes, *_) = shape_of("fewstep.tree.from_template", "parent", parent)
        (batch, *_) = shape_of("fewstep.tree.from_template", "root", root)
        tokens = empty((batch, nodes), "int32", root)
    _core.tree_from_template(parent, rank, root, table, heads, tokens)
    return tokens
