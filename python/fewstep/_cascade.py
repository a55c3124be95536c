# SPDX-License-Identifier: Apache-2.0
"""Trees that grow by a table and by a draft model; `fewstep.draft` re-exports it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep._arrays import is_torch
from fewstep._recycler import Recycler, ScoredTree
from fewstep._tokens import tokens_of


class Question(NamedTuple):
    """Nodes to run a draft model on.

    Attributes
    ----------
    run : numpy array, shape (R,), int32
        Parents before children: those that are asked, also where they ran as others' ancestors,
        and ancestors that did not run yet.
    token, parent : numpy arrays, shape (R,), int32
        Theirs; parents are numbers of nodes, -1 of the root.
    asked : numpy array, shape (A,), int32
        The nodes, some of `run`, whose logits are wanted, ascending.
    chance : float
        That the text leaves the tree at one of them.
    """

    run: NDArray[np.int32]
    token: NDArray[np.int32]
    parent: NDArray[np.int32]
    asked: NDArray[np.int32]
    chance: float


class Cascade:
    """Grow a tree by a recycler, and by a draft model where that does not know how texts go on.

    Parameters
    ----------
    recycler : Recycler
    room : int
        Nodes of the growing tree at most; what comes when it is full is left out.

    Raises
    ------
    ValueError
        `room` is out of range; the message names it.

    Notes
    -----
    The recycler grows for nothing, so the model need not be run token by token: a vertical cascade
    [1]_. A node's rest is the chance that the text gets to it and then leaves the tree: its score
    less those of its children. The model is asked at the nodes of greatest rest; each of its
    likeliest tokens that is no child yet gets the share ``p / (1 - sum of the children's p)`` of
    the rest, and what the recycler knows behind it grows on. The rule of the rest is ours.

    References
    ----------
    .. [1] Chen et al., "Cascade Speculative Drafting for Even Faster LLM Inference", arXiv
       2312.11462, section 3.1.

    Examples
    --------
    >>> table = fewstep.draft.Recycler(order=1)
    >>> table.read([5, 6, 7, 8])
    >>> tree = fewstep.draft.Cascade(table)
    >>> tree.begin([5], depth=4)  # 6, 7 and 8 with chances of 0.7 for each step
    >>> question = tree.ask(most=1)
    >>> question.run, question.asked, round(question.chance, 3)  # 8 ends all
    (array([0, 1, 2, 3], dtype=int32), array([3], dtype=int32), 0.343)

    The model was run on these four tokens and held 6 likely after the last.

    >>> round(tree.answer([[6, 9]], np.log([[0.8, 0.1]])), 3)
    0.309
    >>> token, parent, score = tree.take(max_nodes=5)
    >>> token, score.round(3)
    (array([5, 6, 7, 8, 6], dtype=int32), array([1.   , 0.7  , 0.49 , 0.343, 0.274], dtype=float32))
    """

    def __init__(self, recycler: Recycler, room: int = 128) -> None:
        self._core = _core.Cascade(recycler._core, room)

    def begin(self, context: Any, *, depth: int = 16, least: float = 0.02) -> None:
        """Begin anew with what the recycler proposes; no node has run.

        Parameters
        ----------
        context : sequence of int or array, shape (N,)
        depth : int
            Tokens below the root at most.
        least : float
            A node's chance to be accepted at least, from 0 to 1.

        Raises
        ------
        ValueError
            A number is out of range; the message names it.
        """
        self._core.begin(tokens_of("Cascade.begin", "context", context), depth, least)

    def ask(self, most: int = 2, *, least: float = 0.05) -> Question:
        """Choose the nodes at which the text leaves the tree most likely.

        They count as asked, and the nodes to run as run.

        Parameters
        ----------
        most : int
            How many nodes, at most.
        least : float
            Their rest is above that.

        Returns
        -------
        Question
            Without nodes where there are no such.

        Raises
        ------
        ValueError
            A number is out of range; the message names it.
        """
        *nodes, chance = self._core.ask(most, least)
        run, token, parent, asked = (np.array(one, np.int32) for one in nodes)
        return Question(run, token, parent, asked, chance)

    def answer(self, ids: Any, logp: Any) -> float:
        """Let the tree grow by what the model found likely after the nodes that were asked.

        Parameters
        ----------
        ids : array, shape (A, K), int32
            Different tokens after each node, likeliest first; -1 for none.
        logp : array, shape (A, K), float32
            Their log-probabilities.

        Returns
        -------
        float
            The accepted tokens to expect of all that is new: the sum of its scores; 0 where nothing
            was asked.

        Raises
        ------
        ValueError
            A shape or value that is not as described.
        """
        given = [np.asarray(one.detach().cpu() if is_torch(one) else one) for one in (ids, logp)]
        return self._core.answer(
            np.ascontiguousarray(given[0], np.int32), np.ascontiguousarray(given[1], np.float32)
        )

    def take(self, max_nodes: int = 32) -> ScoredTree:
        """Return the likeliest nodes.

        Parameters
        ----------
        max_nodes : int
            Of the tree, the root included.

        Returns
        -------
        token, parent : numpy arrays, shape (Q,), int32
        score : numpy array, shape (Q,), float32
            As `Recycler.propose`.

        Raises
        ------
        ValueError
            `max_nodes` is out of range.
        """
        return self._core.take(max_nodes)
