# SPDX-License-Identifier: Apache-2.0
"""Published trees of fixed shape; `fewstep.tree` re-exports them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int32]


def template(paths: Iterable[Sequence[int]]) -> tuple[Index, Index]:
    """Turn paths of ranks, as published trees are given, into parents and ranks.

    Parameters
    ----------
    paths : iterable of sequence of int
        One for each node but the root: which candidate to take at each depth on the way there.
        In any order; a path's own beginnings must be among them.

    Returns
    -------
    parent, rank : array, shape (Q,), int32
        Of `fewstep.tree.from_template`: the root first, then by depth and ranks.

    Raises
    ------
    ValueError
        A path occurs twice, or one without its beginning.

    Examples
    --------
    >>> fewstep.tree.template([(0,), (0, 1), (2,)])
    (array([-1,  0,  0,  1], dtype=int32), array([0, 0, 2, 1], dtype=int32))
    """
    ordered = sorted((tuple(path) for path in paths), key=lambda path: (len(path), path))
    number: dict[tuple[int, ...], int] = {(): 0}
    parent, rank = [-1], [0]
    for path in ordered:
        if path in number:
            raise ValueError(f"fewstep.tree.template: 'paths' must differ, got {path} twice")
        if path[:-1] not in number:
            raise ValueError(
                f"fewstep.tree.template: 'paths' must hold the beginning of each path, got {path} "
                f"without {path[:-1]}"
            )
        parent.append(number[path[:-1]])
        rank.append(path[-1])
        number[path] = len(number)
    return np.array(parent, np.int32), np.array(rank, np.int32)


# Each word is a path, each digit a rank. The tree "2.2.2" of Token Recycling (Luo et al. 2024,
# arXiv 2408.08696; repository Luowaterbi/TokenRecycling, model/recycling/tree_template_.py):
# 80 nodes below the root in 6 levels, for tables of 8 successors.
_TOKEN_RECYCLING = """
0 1 2 3 4 5 6 7
00 01 02 03 04 05 06 07 10 11 12 13 20 21 22 30 31 40 50 60 70
000 001 002 003 004 005 006 007 010 011 012 020 021 030 040 050 060 070 100 101 110 200 300 400 500
0000 0001 0002 0003 0004 0010 0011 0020 0030 0040 0100 0200 1000 2000 3000
00000 00001 00002 00010 00020 00100 01000 10000
000000 000001 000100
"""
TOKEN_RECYCLING = template(tuple(map(int, word)) for word in _TOKEN_RECYCLING.split())
for _array in TOKEN_RECYCLING:
    _array.flags.writeable = False
