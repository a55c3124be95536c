# SPDX-License-Identifier: Apache-2.0
"""Drafters that need no model: n-grams of the text so far, and tables of what followed what.

A draft is a tree: ``token[Q]`` and ``parent[Q]``, int32, parents before children. Node 0 is the
root, the last token of the context, with parent -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep._cascade import Cascade as Cascade
from fewstep._recycler import Recycler as Recycler
from fewstep._tokens import tokens_of

__all__ = ["Cascade", "Ngram", "Recycler", "Trigram", "recycle"]

Tree = tuple[NDArray[np.int32], NDArray[np.int32]]


def recycle(table: Any, tokens: Any, top_ids: Any) -> Any:
    """Put the best successors of evaluated tokens into an adjacency table.

    ``table[tokens[n]] = top_ids[n]`` with n ascending: where a token occurs twice the last stays.
    Every position that the model has evaluated counts, those of rejected drafts too.

    Parameters
    ----------
    table : array, shape (V, K), int32
        Successors of each token, most likely first; -1 where none is known. Written in place.
    tokens : array, shape (N,), int32
        The tokens at which the model was evaluated.
    top_ids : array, shape (N, K), int32
        The best K tokens after each; -1 for none.

    Returns
    -------
    array, shape (V, K), int32
        `table`.

    Raises
    ------
    ValueError
        A shape, dtype, token or overlap that is not as described; nothing has been written.

    Notes
    -----
    Allocates nothing. K = 8 and 32,000 tokens are one megabyte. On CUDA nobody reads the numbers
    before: a token outside of the table is passed over, an entry that is none is -1.

    References
    ----------
    .. [1] Luo et al., "Turning Trash into Treasure: Accelerating Inference of Large Language Models
       with Token Recycling", arXiv 2408.08696, section 3.2.

    Examples
    --------
    >>> table = np.full((4, 2), -1, np.int32)
    >>> fewstep.draft.recycle(table, np.array([2], np.int32), np.array([[3, 1]], np.int32))
    array([[-1, -1],
           [-1, -1],
           [ 3,  1],
           [-1, -1]], dtype=int32)
    """
    _core.draft_recycle(table, tokens, top_ids)
    return table


class Ngram:
    """Look up how the end of a text went on before (prompt look-up).

    Parameters
    ----------
    n_min, n_max : int
        Lengths of the n-grams, ``1 <= n_min <= n_max <= 64``.

    Notes
    -----
    Candidates are ordered by the length of the n-gram that they share with the end of the context,
    then by how recent they are. Where a match runs into the end of the text, the text's own draft
    goes on as a repetition. Appending a token takes constant time; a look-up walks the occurrences
    of the last `n_min` tokens. Nothing here depends on a model: verification keeps its law.

    References
    ----------
    .. [1] Saxena, "Prompt lookup decoding", 2023.

    Examples
    --------
    >>> text = fewstep.draft.Ngram(n_min=1, n_max=3)
    >>> text.append([5, 6, 7, 8, 5, 6])
    >>> token, parent = text.propose(max_tokens=3)
    >>> token, parent
    (array([6, 7, 8, 5], dtype=int32), array([-1,  0,  1,  2], dtype=int32))
    >>> len(text)
    6
    """

    def __init__(self, n_min: int = 1, n_max: int = 3) -> None:
        self._core = _core.Ngram(n_min, n_max)

    def append(self, tokens: Any) -> None:
        """Add tokens to the end of the text.

        Parameters
        ----------
        tokens : sequence of int or array, shape (N,)

        Raises
        ------
        ValueError
            They are no tokens; nothing has been added.
        """
        self._core.append(tokens_of("Ngram.append", "tokens", tokens))

    def propose(
        self,
        context: Any = None,
        *,
        max_tokens: int = 10,
        branches: int = 1,
        max_nodes: int = 64,
    ) -> Tree:
        """Draft continuations.

        Parameters
        ----------
        context : sequence of int or array, optional
            Look up the end of this text in place of the store's own: the store is then a corpus.
        max_tokens : int
            Of one continuation.
        branches : int
            How many different continuations to merge into one tree.
        max_nodes : int
            Of the tree, the root included.

        Returns
        -------
        token, parent : numpy arrays, shape (Q,), int32
            ``Q = 1`` where nothing was found, 0 where there is no text.

        Raises
        ------
        ValueError
            A number is out of range; the message names it.
        """
        given = None if context is None else tokens_of("Ngram.propose", "context", context)
        return self._core.propose(given, max_tokens, branches, max_nodes)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self._core)


class Trigram:
    """Count what followed two tokens, and draft by a search that also explores (ADED).

    Notes
    -----
    A node's chance P is the share of its token among the successors of the two before it. The
    search walks from the root by ``Q + exploration * P * sqrt(N) / (1 + n)``, N and n being visits
    of the parent and the child and Q the mean number of accepted tokens to expect from the child
    on; the draft keeps the nodes that were visited most. The statistics need only be observed: of a
    corpus, of a prompt, of what the model has accepted.

    References
    ----------
    .. [1] Liu et al., "Adaptive Draft-Verification for Efficient Large Language Model Decoding",
       arXiv 2407.12021.
    .. [2] Silver et al., "Mastering Chess and Shogi by Self-Play with a General Reinforcement
       Learning Algorithm", arXiv 1712.01815 (the selection).

    Examples
    --------
    >>> counts = fewstep.draft.Trigram()
    >>> counts.observe([1, 2, 3, 1, 2, 3, 1, 2, 4])
    >>> counts.count(1, 2, 3), len(counts)
    (2, 3)
    >>> token, parent = counts.propose([1, 2], max_nodes=4)
    >>> token.tolist(), parent.tolist()
    ([2, 3, 1, 2], [-1, 0, 1, 2])
    """

    def __init__(self) -> None:
        self._core = _core.Trigram()

    def observe(self, tokens: Any) -> None:
        """Count every three tokens in a row; to go on with a text, repeat its last two.

        Parameters
        ----------
        tokens : sequence of int or array, shape (N,)

        Raises
        ------
        ValueError
            They are no tokens; nothing has been counted.
        """
        self._core.observe(tokens_of("Trigram.observe", "tokens", tokens))

    def count(self, first: int, second: int, third: int) -> int:
        """Return how often `third` followed `first` and `second`."""
        return self._core.count(first, second, third)

    def propose(
        self,
        context: Any,
        *,
        depth: int = 6,
        width: int = 8,
        iterations: int = 200,
        exploration: float = 1.0,
        max_nodes: int = 64,
    ) -> Tree:
        """Draft from the last two tokens of a context.

        Parameters
        ----------
        context : sequence of int or array, shape (N,)
        depth : int
            Tokens below the root at most.
        width : int
            Successors of two tokens that the search looks at, the most frequent ones.
        iterations : int
            Of the search.
        exploration : float
            0 follows what looks best so far; more tries what is less likely.
        max_nodes : int
            Of the tree, the root included.

        Returns
        -------
        token, parent : numpy arrays, shape (Q,), int32
            ``Q = 1`` where nothing is known, 0 where there is no context.

        Raises
        ------
        ValueError
            A number is out of range; the message names it.
        """
        given = tokens_of("Trigram.propose", "context", context)
        return self._core.propose(given, depth, width, iterations, exploration, max_nodes)

    def __len__(self) -> int:
        """Return the number of different pairs of tokens that something followed."""
        return len(self._core)
