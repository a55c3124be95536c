# SPDX-License-Identifier: Apache-2.0
"""The paged allocator; `fewstep.kv` re-exports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep._core import KvPool


class Pool:
    """Which sequence has which pages of a paged KV cache.

    A page holds `page_tokens` tokens of all layers and belongs to as many sequences as share it.
    Sequences share what `fork` and the look-up of published prefixes give them; one that writes to
    a shared page gets a page of its own first. Pages of sequences that ended are kept, when their
    tokens were published, until their memory is wanted, the page unused for longest first.

    Parameters
    ----------
    pages : int
        Pages of the cache.
    page_tokens : int
        Tokens of a page.

    Raises
    ------
    ValueError
        Of every method: a number out of range, or a sequence that the pool does not have, such as
        one that was freed. A call that fails changes nothing.

    Notes
    -----
    Host bookkeeping: it touches no tensor. One thread at a time.

    Examples
    --------
    >>> pool = fewstep.kv.Pool(pages=4, page_tokens=2)
    >>> first, cached = pool.add([5, 6, 7])
    >>> pool.extend(first, 3)
    (-1, -1)
    >>> second = pool.fork(first)
    >>> pool.extend(second, 1)  # the second page is part full and shared
    (1, 2)
    >>> pool.page_table([first, second])
    array([[0, 1],
           [0, 2]], dtype=int32)
    """

    def __init__(self, pages: int, page_tokens: int) -> None:
        self._pool = KvPool(pages, page_tokens)

    def add(self, tokens: ArrayLike = ()) -> tuple[int, int]:
        """Begin a sequence with what is cached of these tokens.

        Parameters
        ----------
        tokens : array of int, shape (N,)
            Its first tokens. To have something to compute, leave out the last one.

        Returns
        -------
        sequence : int
            Its number; numbers are never used again.
        cached : int
            How many of the tokens it has, from the first on: a multiple of a page's.
        """
        return self._pool.add(_tokens(tokens))

    def extend(self, sequence: int, n_tokens: int) -> tuple[int, int]:
        """Make room for tokens behind those that a sequence has.

        Parameters
        ----------
        sequence : int
        n_tokens : int

        Returns
        -------
        source, target : int
            The page to copy and the page of its own that the sequence has in its place, for
            `copy_pages` before anything is appended; -1 and -1 where nothing is to be copied.

        Raises
        ------
        MemoryError
            Free and cached pages do not suffice.
        """
        return self._pool.extend(sequence, n_tokens)

    def truncate(self, sequence: int, length: int) -> None:
        """Give up the tokens of a sequence from `length` on."""
        self._pool.truncate(sequence, length)

    def fork(self, sequence: int, length: int | None = None) -> int:
        """Return a sequence that shares the first `length` tokens of another, by default all."""
        return self._pool.fork(sequence, self.length(sequence) if length is None else length)

    def publish(self, sequence: int, tokens: ArrayLike) -> None:
        """Let later sequences share a sequence's full pages.

        Parameters
        ----------
        sequence : int
        tokens : array of int, shape (N,)
            Its tokens from the first on, whose rows are in the cache. The full pages among them are
            found by `add`; those published before must repeat their tokens.
        """
        self._pool.publish(sequence, _tokens(tokens))

    def free(self, sequence: int) -> None:
        """End a sequence."""
        self._pool.free(sequence)

    def length(self, sequence: int) -> int:
        """Return the tokens of a sequence."""
        return self._pool.length(sequence)

    def page_table(
        self, sequences: Sequence[int] | NDArray[Any], columns: int | None = None
    ) -> NDArray[np.int32]:
        """Return the pages of sequences, a row each, with -1 behind them.

        Parameters
        ----------
        sequences : sequence of int, shape (B,)
        columns : int, optional
            Columns of the table; by default as many as the longest sequence has pages.

        Returns
        -------
        array, shape (B, columns), int32
        """
        if columns is not None and columns < 0:
            raise ValueError(
                f"fewstep.kv.Pool.page_table: 'columns' must be 0 or more, got {columns}"
            )
        return self._pool.page_table(sequences, -1 if columns is None else columns)

    def references(self, page: int) -> int:
        """Return the number of sequences that have a page."""
        return self._pool.references(page)

    def stats(self) -> dict[str, int]:
        """Return what the pool holds and did.

        Returns
        -------
        dict
            ``pages``, ``page_tokens``; of the pages those ``used`` by sequences, ``shared`` by
            several, ``cached`` for later ones and ``free``; ``sequences``; tokens ``looked_up`` by
            `add` and those ``found``; ``copies`` of pages; ``evictions`` of cached ones.
        """
        return self._pool.stats()


def _tokens(tokens: ArrayLike) -> NDArray[np.int32]:
    given = np.asarray(tokens)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(
            "fewstep.kv.Pool: 'tokens' must be a sequence of integers, got "
            f"{given.dtype} of shape {list(given.shape)}"
        )
    return given.astype(np.int32)
