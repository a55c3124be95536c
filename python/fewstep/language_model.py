# SPDX-License-Identifier: Apache-2.0
"""What a generator asks of a language model: rows of logits from a cache that the model keeps.

`fewstep.transformers.PagedModel` makes one of any model of that library; hosts with models of their
own write these few methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

__all__ = ["LanguageModel"]


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
    ) -> Any:
        """Run rows of tokens; every sequence has its rows afterwards.

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
            The rows whose logits are wanted, ascending; all by default.

        Returns
        -------
        array, shape (R, n_vocab); float32 | float16 | bfloat16
            Logits, valid until the next call.
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
