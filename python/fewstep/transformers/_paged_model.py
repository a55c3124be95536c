# SPDX-License-Identifier: Apache-2.0
"""Causal language models of transformers as what a generator drives."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..drafters._protocol import Ahead, Known
from ..torch import pack_linears
from ._cache import NAME, PagedRows, check_cache_dtype
from ._checks import (
    FUNCTION,
    check_block,
    check_graph,
    check_model,
    check_paths,
    check_room,
    checked_counts,
    checked_ids,
    checked_layers,
    stop_tokens,
    vocabulary_size,
)
from ._cycle import Cycles
from ._forward import Forward, Graphs
from ._rows import rows_of
from ._shares import sharing
from ._store import Store
from ._whole import Whole, is_plain


class PagedModel:
    """A causal language model of transformers with its keys and values in pages.

    What `fewstep.Generator` drives, as target or as draft model (`fewstep.LanguageModel`): ragged
    rows of many sequences in one forward pass, token trees, shared prefixes, roll-back.

    Parameters
    ----------
    model : PreTrainedModel
        On the CPU or a CUDA device; float32 | float16 | bfloat16. Its attention is set to
        ``"fewstep"``, and it to evaluation.
    pages : int, optional
        Pages of the cache: 65,536 tokens by default. On the CPU pages that are written take memory,
        on a CUDA device all.
    page_tokens : int, default 32
        Tokens of a page.
    cache_dtype : {"int8", "float8_e4m3fn"}, optional
        Quantise keys and values per token and head; as the model has them when left out.
    deterministic : bool, default True
        Attention gives a row the same bits alone and with any others. With linear layers that were
        packed (`fuse`), a sequence's logits then depend on nothing but its tokens and, of a tree,
        on the order in which a path's nodes lie. A single row against a long cache takes half as
        long again.
    vocabulary : array of int, shape (n_vocab,), optional
        Ascending ids: logits of these tokens alone, from a head of their rows, as a draft model of
        FR-Spec [1]_ has it. They become `d2t`.
    layers : int, optional
        The first layers alone, and the norm and head after them: a draft model made of the target's
        own weights, as in EESD [2]_.
    graph : bool, default False
        On a CUDA device: capture the forward pass of trees that come again as CUDA graphs, and with
        `fewstep.drafters.TokenRecycling` drafts, verification and all. What cannot be captured runs
        as it is. Weights may change in their place; modules that are exchanged are not seen.

    Attributes
    ----------
    model : PreTrainedModel
        What runs; another one than was given with `vocabulary` or `layers`, of the same weights.
    n_vocab : int
        Columns of the logits.
    d2t : array, shape (n_vocab,), int32, or None
        Id in the full vocabulary of each column.
    pool : fewstep.kv.Pool
        Which sequence has which pages.
    max_length : int or None
        Tokens of the longest sequence that the model was made for.
    runs_ahead : bool
        Whether `cycles` may do something.
    stop_tokens : tuple of int
        Tokens that end a text, of the model's generation config.

    Raises
    ------
    TypeError
        `model` is not a causal language model of transformers.
    ValueError
        A number out of range, a device or dtype that does not fit, ids that do not ascend.
    MemoryError
        Of `extend`: the pages do not suffice.

    Notes
    -----
    On the CPU a model that was given to `fewstep.transformers.fuse` runs without transformers'
    forward pass, in a fraction of its time; on a CUDA device its layers do. One thread at a time.

    References
    ----------
    .. [1] Zhao et al., "FR-Spec", arXiv 2502.14856.
    .. [2] Liu et al., "Speculative decoding via early-exiting for faster LLM inference with
       Thompson sampling control mechanism", arXiv 2406.03853.

    Examples
    --------
    >>> import fewstep.transformers, torch, transformers
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    ...     num_attention_heads=2)
    >>> model = fewstep.transformers.PagedModel(transformers.LlamaForCausalLM(config), pages=8)
    >>> sequence, cached = model.add([5, 6])
    >>> model.extend(sequence, 3)
    >>> tokens, indptr = np.array([5, 6, 7], np.int32), np.array([0, 3], np.int32)
    >>> model.forward([sequence], tokens, indptr, rows=np.array([2])).shape
    torch.Size([1, 64])
    >>> model.length(sequence)
    3
    """

    def __init__(
        self,
        model: Any,
        *,
        pages: int | None = None,
        page_tokens: int = 32,
        cache_dtype: str | None = None,
        deterministic: bool = True,
        vocabulary: ArrayLike | None = None,
        layers: int | None = None,
        graph: bool = False,
    ) -> None:
        check_model(model)
        check_graph(model, graph)
        check_cache_dtype(FUNCTION, "cache_dtype", cache_dtype)
        if layers is not None:
            layers = checked_layers(model, layers)
        ids = None if vocabulary is None else checked_ids(model, vocabulary)
        if pages is None:
            pages = max(1, (1 << 16) // max(page_tokens, 1))
        store = Store(pages, page_tokens, cache_dtype, deterministic, model.device)
        if model.config._attn_implementation != NAME:
            model.set_attn_implementation(NAME)
        self.model = model.eval()
        if ids is not None or layers is not None:
            index = None if ids is None else torch.from_numpy(ids).long().to(model.device)
            self.model = sharing(model, layers, index)
            if ids is not None:
                pack_linears(self.model.get_output_embeddings())
        self.pool, self._core_pool = store.pool, store.pool._pool
        self.d2t: NDArray[Any] | None = ids
        self.n_vocab = len(ids) if ids is not None else vocabulary_size(model)
        config = self.model.base_model.config.get_text_config(decoder=True)
        self._cache = PagedRows(store, config.num_hidden_layers)
        self._lengths: dict[int, int] = {}
        longest = getattr(config, "max_position_embeddings", None)
        self.max_length: int | None = longest
        self.stop_tokens = stop_tokens(model)
        self._whole = Whole(self.model, store) if is_plain(self.model) else None
        forward = Forward(self.model, self._cache)
        self._forward: Forward | Graphs = Graphs(forward) if graph else forward
        self.runs_ahead, self._cycles = graph, Cycles(forward) if graph else None

    def add(self, tokens: Sequence[int] | NDArray[Any] = ()) -> tuple[int, int]:
        """Begin a sequence with what is cached of these tokens; return its number and how many."""
        sequence, cached = self.pool.add(tokens)
        self._lengths[sequence] = cached
        return sequence, cached

    def fork(self, sequence: int, length: int | None = None) -> int:
        """Begin a sequence with the first tokens of another, by default all; return its number."""
        length = self.length(sequence) if length is None else length
        made = self.pool.fork(sequence, length)
        self._lengths[made] = length
        return made

    def extend(self, sequence: int, n_tokens: int) -> None:
        """Make room for tokens behind those that a sequence has, for the next `forward`."""
        needed = self.length(sequence) + n_tokens - self._core_pool.length(sequence)
        if needed <= 0:
            return
        try:
            pages = self._core_pool.extend(sequence, needed)
        except MemoryError:
            stats = self.pool.stats()
            raise MemoryError(
                f"{FUNCTION}.extend: {n_tokens} tokens of sequence {sequence} must fit in the "
                f"{stats['free'] + stats['cached']} of {stats['pages']} pages that are not in use, "
                f"of {stats['page_tokens']} tokens each"
            ) from None
        if pages[0] >= 0:
            self._cache.store.copy([pages])

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

        Parameters
        ----------
        sequences : sequence of int, shape (B,)
            Different ones, that room was made for.
        tokens : array, shape (N,), int32
        indptr : array, shape (B + 1,), int32
            Rows ``indptr[b]`` to ``indptr[b + 1] - 1`` are those of ``sequences[b]``.
        bits : array, shape (N, W), uint32, optional
            Of trees, of up to 256 tokens: bit j of a row says that it sees token j of its block.
        depth : array, shape (N,), int32, optional
            Of trees: positions behind the block's first token.
        block : array, shape (B,), int32, optional
            How many of a sequence's last tokens are its block, these rows included.
        rows : array, shape (R,), int64, optional
            The rows whose logits are wanted; all by default.
        hidden : bool
            Return the hidden states that the logits are made of, too.

        Returns
        -------
        tensor, shape (R, n_vocab), dtype of the model
            Logits; with `hidden` a pair of them and of a tensor of shape (R, E).

        Raises
        ------
        ValueError
            An argument that is not as described; the cache is as it was.
        """
        indptr = np.asarray(indptr, np.int32)
        length = [self.length(sequence) for sequence in sequences]
        laid = self._core_pool.rows(sequences, length, tokens, indptr)
        if laid is None:
            counts = checked_counts(f"{FUNCTION}.forward", sequences, indptr, len(tokens))
            check_room(f"{FUNCTION}.forward", self.pool, sequences, length, counts)
        assert laid is not None  # those say what is wrong
        ids, lengths, table, counts, after = laid
        if bits is not None:
            block = None if block is None else np.ascontiguousarray(block, np.int32)
            check_block(counts if block is None else block.tolist(), counts, length)
        wanted = None if rows is None else np.ascontiguousarray(rows, np.int64)
        if self._whole is not None and self._whole.ready():
            longest = max(after, default=0)
            if bits is None:
                depth = block = None
            elif depth is not None:
                depth = np.asarray(depth, np.int32)
            result = self._whole.run(
                ids, indptr, lengths, table, bits, depth, block, wanted, longest, hidden
            )
        else:
            these = rows_of(lengths, indptr, table, bits=bits, depth=depth, block=block)
            result = self._forward.run(ids, these, wanted, hidden)
        self._lengths.update(zip(sequences, after, strict=True))
        return result

    def chain(
        self,
        sequences: Sequence[int],
        tokens: NDArray[Any],
        indptr: NDArray[Any],
        levels: NDArray[Any],
        least: float = 0.0,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        """Run rows of tokens and draft the chain of likeliest tokens behind each sequence's.

        What `forward` and `fewstep.tree.expand` give in turns, in one call; see
        `fewstep.decoder.chain`.

        Parameters
        ----------
        sequences : sequence of int, shape (B,)
            Different ones, with room for their rows and for ``levels[b] - 1`` tokens more.
        tokens : array, shape (N,), int32
        indptr : array, shape (B + 1,), int32
        levels : array, shape (B,), int32
            How many tokens to draft, 1 or more.
        least : float
            All chains end where the probabilities of those that would go on sum to this or less.

        Returns
        -------
        tuple of arrays, shape (B, K) each, int32 and float32, or None
            Tokens, -1 behind the last, and log-probabilities up to each; sequences have their rows
            and all drafted tokens but the last then. None, and nothing done, without `fuse`.

        Raises
        ------
        ValueError
            An argument that is not as described; the cache is as it was.
        """
        indptr, levels = np.asarray(indptr, np.int32), np.ascontiguousarray(levels, np.int32)
        wanted = levels.tolist()
        if len(wanted) != len(sequences) or min(wanted, default=1) < 1:
            raise ValueError(
                f"{FUNCTION}.chain: 'levels' must have 1 or more for each of {len(sequences)} "
                f"sequences, got {wanted}"
            )
        length = [self.length(sequence) for sequence in sequences]
        counts = checked_counts(f"{FUNCTION}.chain", sequences, indptr, len(tokens))
        rows = [count + n - 1 for count, n in zip(counts, wanted, strict=True)]
        check_room(f"{FUNCTION}.chain", self.pool, sequences, length, rows)
        if not wanted or self._whole is None or not self._whole.ready():
            return None
        longest = max(map(add, length, rows))
        found = self._whole.chain(
            np.ascontiguousarray(tokens, np.int64), indptr, np.array(length, np.int32),
            self.pool.page_table(sequences), levels, least, self.d2t, longest,
        )  # fmt: skip
        ids = found[0].tolist()
        for sequence, before, count, own in zip(sequences, length, counts, ids, strict=True):
            self._lengths[sequence] = before + count + max(len(own) - own.count(-1) - 1, 0)
        return found

    def cycles(
        self, sequences: Sequence[int], last: Sequence[int], verified: Any, known: Known
    ) -> Ahead | None:
        """Draft, run, verify and keep several times on the device, all of it one CUDA graph.

        The texts' last tokens have not run; `verified` are seeds, filters and parameters of rule
        ``match``. None, and nothing done, without ``graph=True``, where there is no room for all
        drafts, or where the model cannot be captured.
        """
        if self._cycles is None:
            return None
        return self._cycles.run(self, sequences, last, verified, known)

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
        length = [self.length(sequence) for sequence in sequences]
        kept = self._core_pool.kept(sequences, length, path, accepted, block)
        if kept is None:
            check_paths(sequences, length, path, accepted, block)
        assert kept is not None  # that says what is wrong
        moves, base, after = kept
        if moves:
            nodes, counts = (np.ascontiguousarray(a, np.int32) for a in (path, accepted))
            self._cache.store.commit(sequences, nodes, counts, base)
        for sequence, tokens in zip(sequences, after, strict=True):
            self._settle(sequence, tokens)

    def _settle(self, sequence: int, length: int) -> None:
        """Take note of the tokens that a sequence has; other room is free again."""
        self._core_pool.truncate(sequence, length)
        self._lengths[sequence] = length

    def truncate(self, sequence: int, length: int) -> None:
        """Forget the tokens of a sequence from `length` on."""
        if not 0 <= length <= self.length(sequence):
            raise ValueError(
                f"{FUNCTION}.truncate: 'length' must lie in 0 to {self.length(sequence)}, the "
                f"sequence's tokens, got {length}"
            )
        self.pool.truncate(sequence, length)
        self._lengths[sequence] = length

    def length(self, sequence: int) -> int:
        """Return how many tokens a sequence has."""
        if sequence not in self._lengths:
            raise ValueError(
                f"{FUNCTION}: 'sequence' must be one that was added and not freed, got {sequence}"
            )
        return self._lengths[sequence]

    def publish(self, sequence: int, tokens: Sequence[int] | NDArray[Any]) -> None:
        """Let later sequences share this one's full pages; `tokens` are all that it has."""
        self.pool.publish(sequence, np.asarray(tokens)[: self.length(sequence)])

    def free(self, sequence: int) -> None:
        """End a sequence."""
        self.length(sequence)
        self.pool.free(sequence)
        del self._lengths[sequence]
