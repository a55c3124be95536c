# SPDX-License-Identifier: Apache-2.0
"""What a model held likely after contexts of several tokens; `fewstep.draft` re-exports it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep._arrays import is_torch
from fewstep._tokens import tokens_of

ScoredTree = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


def _host(values: Any) -> Any:
    """Return an array in the host's memory."""
    return np.asarray(values.detach().cpu() if is_torch(values) else values)


def _int32(name: str, values: Any) -> NDArray[np.int32]:
    """Return integers as int32; refuse what is not."""
    given = _host(values)
    converted = np.ascontiguousarray(given, np.int32)
    if given.size and (given.dtype.kind not in "iu" or (converted != given).any()):
        raise ValueError(
            f"fewstep.draft.Recycler.observe: '{name}' must be integers of 32 bits, got "
            f"{given.dtype} of shape {list(given.shape)}"
        )
    return converted


class Recycler:
    """Keep what a model held likely after the last few tokens, and grow trees of it best first.

    Parameters
    ----------
    order : int
        Tokens of the longest contexts, 1 to 4. Shorter ones are kept too: the longest context that
        is known counts.
    width : int
        Successors kept of each context, 1 to 16.
    capacity : int
        Contexts at most; then a new one takes the place of the one that has been known longest.

    Raises
    ------
    ValueError
        A number is out of range; the message names it.

    Notes
    -----
    Token Recycling [1]_ keeps the model's best successors of each single token and fills a fixed
    template with them. Here contexts have several tokens with back-off to shorter ones [2]_; a tree
    has the nodes that are likeliest to be accepted, as in EAGLE-2 [3]_; the successors'
    probabilities (their shares among those kept) are calibrated by how often such ones came true;
    and texts can be read, as in prompt look-up [4]_. The combination is ours.

    A successor is counted with those of the same length of context, source (read, or a model's),
    rank (3 and more are one) and tenth of the probability p: its chance is
    ``(hits + 1.4 p) / (trials + 2)``, and both halve at 512 trials.

    References
    ----------
    .. [1] Luo et al., "Turning Trash into Treasure: Accelerating Inference of Large Language Models
       with Token Recycling", arXiv 2408.08696.
    .. [2] Katz, "Estimation of Probabilities from Sparse Data for the Language Model Component of a
       Speech Recognizer", 1987.
    .. [3] Li et al., "EAGLE-2: Faster Inference of Language Models with Dynamic Draft Trees", arXiv
       2406.16858.
    .. [4] Saxena, "Prompt lookup decoding", 2023.

    Examples
    --------
    >>> table = fewstep.draft.Recycler(order=2, width=2)
    >>> table.read([5, 6, 7, 8, 5, 6])
    >>> len(table)  # 5, 6, 7, 8 and the pairs 5 6, 6 7, 7 8, 8 5
    8
    >>> token, parent, score = table.propose([5, 6], depth=3)
    >>> token, parent
    (array([6, 7, 8, 5], dtype=int32), array([-1,  0,  1,  2], dtype=int32))
    >>> score.round(3)  # 0.7 for each step, until it is known better
    array([1.   , 0.7  , 0.49 , 0.343], dtype=float32)

    The model was run on one node, the token 6 after a 5; it held 9 likelier than 7 and said 9.

    >>> table.observe(
    ...     [6], [-1], [0, 1], context=[[5]], ids=[[9, 7]], logits=np.log([[0.75, 0.25]]),
    ...     path=np.zeros((1, 0), int), accepted=[0], next_token=[9],
    ... )
    >>> table.propose([5, 6], max_nodes=3)[0]
    array([6, 9, 7], dtype=int32)
    """

    def __init__(self, order: int = 2, width: int = 8, capacity: int = 65536) -> None:
        self._core = _core.Recycler(order, width, capacity)

    def read(self, tokens: Any) -> None:
        """Read a text: each token follows the contexts before it, with probability 1.

        What a model said about a context stays; what was read earlier does not.

        Parameters
        ----------
        tokens : sequence of int or array, shape (N,)

        Raises
        ------
        ValueError
            They are no tokens; nothing has been read.
        """
        self._core.read(tokens_of("Recycler.read", "tokens", tokens))

    def observe(
        self,
        token: Any,
        parent: Any,
        indptr: Any,
        *,
        ids: Any,
        logits: Any,
        path: Any,
        accepted: Any,
        next_token: Any,
        context: Any = None,
    ) -> None:
        """Keep what a model held likely after the nodes of trees, accepted or not.

        Parameters
        ----------
        token, parent : array, shape (N,), int32
            The nodes, as for `fewstep.tree.verify`: parents are numbered in their own tree, -1 is a
            root's.
        indptr : array, shape (B + 1,), int32
            Tree b has nodes ``indptr[b]`` to ``indptr[b + 1] - 1``.
        ids : array, shape (N, width), int32
            The best tokens after each node, different ones, likeliest first; -1 for none. A row
            without any changes nothing.
        logits : array, shape (N, width), float32
            Theirs.
        path : array, shape (B, D), int32
            Accepted nodes, the root not among them, as `fewstep.tree.verify` writes them.
        accepted : array, shape (B,), int32
            How many they are.
        next_token : array, shape (B,), int32
            The token after the path; -1 where there is none.
        context : array, shape (B, order - 1), int32, optional
            Tokens before each root, the oldest first, -1 where there are none; needed with an order
            above 1.

        Raises
        ------
        ValueError
            A shape or value that is not as described; nothing has been kept.
        """
        self._core.observe(
            _int32("token", token), _int32("parent", parent), _int32("indptr", indptr),
            None if context is None else _int32("context", context), _int32("ids", ids),
            np.ascontiguousarray(_host(logits), np.float32), _int32("path", path),
            _int32("accepted", accepted), _int32("next_token", next_token),
        )  # fmt: skip

    def propose(
        self, context: Any, *, depth: int = 16, least: float = 0.02, max_nodes: int = 32
    ) -> ScoredTree:
        """Draft from the last tokens of a context.

        Parameters
        ----------
        context : sequence of int or array, shape (N,)
        depth : int
            Tokens below the root at most.
        least : float
            A node's chance to be accepted at least, from 0 to 1.
        max_nodes : int
            Of the tree, the root included.

        Returns
        -------
        token, parent : numpy arrays, shape (Q,), int32
            The likeliest node first; ``Q = 1`` where nothing is known, 0 where there is no context.
        score : numpy array, shape (Q,), float32
            Each node's chance, 1 of the root.

        Raises
        ------
        ValueError
            A number is out of range; the message names it.
        """
        given = tokens_of("Recycler.propose", "context", context)
        return self._core.propose(given, depth, least, max_nodes)

    def __len__(self) -> int:
        """Return the number of contexts that are known."""
        return len(self._core)
