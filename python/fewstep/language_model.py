# SPDX-License-Identifier: Apache-2.0
"""What a generator asks of a language model: rows of logits from a cache that the model keeps.

`fewstep.transformers.PagedModel` makes one of any model of that library; hosts with models of their
own write these few methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LanguageModel", "Markov"]


@runtime_checkable
class LanguageModel(Protocol):
    """A language model and the keys and values of the sequences that it is in the middle of.

    A sequence is a number; it has the tokens that went through `forward`. Targets and draft models
    are the same to a generator. All methods that fail change nothing.

    Attributes
    ----------
    n_vocab : int
        Columns of the logits.
    d2t : array, shape (n_vocab,), int32, or None
        Id in the target's vocabulary of each column, ascending, for a draft model with a vocabulary
        of its own or a subset of the target's; None where they are the same.
    """

    n_vocab: int
    d2t: NDArray[Any] | None

    def add(self, tokens: Sequence[int] | NDArray[Any]) -> tuple[int, int]:
        """Begin a sequence with what is cached of these tokens.

        Parameters
        ----------
        tokens : sequence of int, shape (N,)
            Its first tokens. To have something to compute, leave out the last one.

        Returns
        -------
        sequence : int
            Its number.
        cached : int
            How many of the tokens it has already, from the first on; 0 of a model without shared
            prefixes.
        """

    def extend(self, sequence: int, n_tokens: int) -> None:
        """Make room for tokens behind those that a sequence has, for the next `forward`.

        Raises
        ------
        MemoryError
            There is no room; other sequences go on, and this one does after others are freed.
        """

    def forward(
        self,
        sequences: Sequence[int],
        tokens: NDArray[Any],
        indptr: NDArray[Any],
        *,
        bits: NDArray[Any] | None = None,
        depth: NDArray[Any] | None = None,
        block: NDArray[Any] | None = None,
        rows: NDArray[Any] | None = None,
        hidden: bool = False,
    ) -> Any:
        """Run rows of tokens; every sequence has its rows afterwards.

        A generator's arrays serve other calls with such trees too, and are not to be written to.

        Parameters
        ----------
        sequences : sequence of int, shape (B,)
            Different ones, that room was made for.
        tokens : array, shape (N,), int32
            Rows ``indptr[b]`` to ``indptr[b + 1] - 1`` are those of ``sequences[b]``, one at least.
        indptr : array, shape (B + 1,), int32
        bits : array, shape (N, W), uint32, optional
            Of trees: bit j of a row says that it sees token j of its sequence's block. Tokens
            before the block are always seen. Without, rows are a causal chain.
        depth : array, shape (N,), int32, optional
            Of trees: positions behind the block's first token. Goes with `bits`.
        block : array, shape (B,), int32, optional
            How many of a sequence's last tokens are its block, these rows included: more than the
            rows where a tree grows level by level. The rows by default.
        rows : array, shape (R,), int64, optional
            The rows whose logits are wanted, ascending, maybe none; all by default.
        hidden : bool
            Return the hidden states that the logits are made of, too. Asked for only where a
            drafter needs them.

        Returns
        -------
        array, shape (R, n_vocab); float32 | float16 | bfloat16
            Logits, valid until the next call; with `hidden` a pair of them and of an array of shape
            (R, E).
        """

    def keep(
        self,
        sequences: Sequence[int],
        path: NDArray[Any],
        accepted: NDArray[Any],
        block: NDArray[Any],
    ) -> None:
        """Keep of each sequence's last `block` tokens the root and a path; forget the others.

        Parameters
        ----------
        sequences : sequence of int, shape (B,)
        path : array, shape (B, M), int32
            Nodes, ascending, as `fewstep.tree.verify` gives them; node 0 is the root.
        accepted : array, shape (B,), int32
            How many of them are kept behind the root.
        block : array, shape (B,), int32
            How many tokens each block has, the root's included.
        """

    def truncate(self, sequence: int, length: int) -> None:
        """Forget the tokens of a sequence from `length` on."""

    def length(self, sequence: int) -> int:
        """Return how many tokens a sequence has."""

    def publish(self, sequence: int, tokens: Sequence[int] | NDArray[Any]) -> None:
        """Let later sequences share this one's; may do nothing.

        Parameters
        ----------
        sequence : int
        tokens : sequence of int
            All that it has.
        """

    def free(self, sequence: int) -> None:
        """End a sequence."""


def as_language_model(function: str, model: Any) -> LanguageModel:
    """Return a model itself if it is a `LanguageModel`, else one of transformers wrapped."""
    if isinstance(model, LanguageModel):
        return model
    if hasattr(model, "config") and callable(model):
        # Imported where it is needed: it imports torch and transformers.
        wrapped: LanguageModel = import_module("fewstep.transformers").PagedModel(model)
        return wrapped
    raise TypeError(
        f"{function}: 'model' must be a LanguageModel or a model of transformers, got "
        f"{type(model).__name__}"
    )


class Markov:
    """A language model that is a table: logits by the last tokens.

    The smallest model with all that `LanguageModel` asks for, to test generators and drafters with:
    the law of its texts can be written down.

    Parameters
    ----------
    table : array, shape (V,) * N + (V,), float32
        ``table[a, b]`` are the logits after a and b, of a model that looks at the last N = 2
        tokens. Before the text stand tokens 0.
    room : int, optional
        Tokens that all its sequences may have together, without limit by default.

    Raises
    ------
    ValueError
        The table is not of such a shape.

    Examples
    --------
    >>> model = fewstep.language_model.Markov(np.eye(4, dtype=np.float32))
    >>> sequence, _ = model.add([2])
    >>> model.extend(sequence, 1)
    >>> model.forward([sequence], np.array([2], np.int32), np.array([0, 1], np.int32))
    array([[0., 0., 1., 0.]], dtype=float32)
    """

    def __init__(self, table: ArrayLike, room: int | None = None) -> None:
        self.table = np.ascontiguousarray(table, np.float32)
        shape = self.table.shape
        if len(shape) < 2 or len(set(shape)) != 1:
            raise ValueError(
                "fewstep.language_model.Markov: 'table' must have the shape (V,) * N + (V,) with N "
                f"of 1 or more, got {list(shape)}"
            )
        self.n_vocab = shape[0]
        self.d2t: NDArray[Any] | None = None
        self._order, self._room = len(shape) - 1, room
        self._texts: dict[int, list[int]] = {}
        self._reserved: dict[int, int] = {}
        self._next = 0

    def add(self, tokens: Sequence[int] | NDArray[Any]) -> tuple[int, int]:
        """Begin a sequence; nothing is ever cached."""
        number, self._next = self._next, self._next + 1
        self._texts[number], self._reserved[number] = [], 0
        return number, 0

    def extend(self, sequence: int, n_tokens: int) -> None:
        """Make room."""
        wanted = len(self._texts[sequence]) + n_tokens
        others = sum(self._reserved.values()) - self._reserved[sequence]
        if self._room is not None and others + wanted > self._room:
            raise MemoryError(
                f"fewstep.language_model.Markov: {n_tokens} tokens more do not fit, "
                f"{others + len(self._texts[sequence])} of {self._room} are taken"
            )
        self._reserved[sequence] = wanted

    def forward(
        self,
        sequences: Sequence[int],
        tokens: NDArray[Any],
        indptr: NDArray[Any],
        *,
        bits: NDArray[Any] | None = None,
        depth: NDArray[Any] | None = None,
        block: NDArray[Any] | None = None,
        rows: NDArray[Any] | None = None,
        hidden: bool = False,
    ) -> Any:
        """Look every row up, by the tokens that it sees."""
        states = np.zeros((len(tokens), self._order), np.int64)
        for b, sequence in enumerate(sequences):
            text, begin, end = self._texts[sequence], int(indptr[b]), int(indptr[b + 1])
            text.extend(tokens[begin:end].tolist())
            first = len(text) - (end - begin if block is None else int(block[b]))
            for row in range(begin, end):
                last = len(text) - (end - row)
                seen = list(range(last + 1))
                if bits is not None:
                    words = np.ascontiguousarray(bits[row]).view(np.uint8)
                    inside = np.flatnonzero(np.unpackbits(words, bitorder="little"))
                    seen = [*range(first), *(first + inside).tolist()]
                state = [text[i] for i in seen[-self._order :]]
                states[row, self._order - len(state) :] = state
        wanted = states if rows is None else states[rows]
        logits = self.table[tuple(wanted.T)]
        return (logits, wanted) if hidden else logits

    def keep(
        self,
        sequences: Sequence[int],
        path: NDArray[Any],
        accepted: NDArray[Any],
        block: NDArray[Any],
    ) -> None:
        """Keep the roots and the accepted nodes."""
        for b, sequence in enumerate(sequences):
            text = self._texts[sequence]
            first = len(text) - int(block[b])
            nodes = [0, *path[b, : int(accepted[b])].tolist()]
            self._texts[sequence] = text[:first] + [text[first + node] for node in nodes]

    def truncate(self, sequence: int, length: int) -> None:
        """Forget tokens."""
        del self._texts[sequence][length:]
        self._reserved[sequence] = length

    def length(self, sequence: int) -> int:
        """Return how many tokens a sequence has."""
        return len(self._texts[sequence])

    def publish(self, sequence: int, tokens: Sequence[int] | NDArray[Any]) -> None:
        """Nothing: prefixes are not shared."""

    def free(self, sequence: int) -> None:
        """End a sequence."""
        del self._texts[sequence], self._reserved[sequence]
