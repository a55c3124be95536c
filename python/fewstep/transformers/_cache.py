# SPDX-License-Identifier: Apache-2.0
"""Caches of transformers whose keys and values stay in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from .._transfer import on_host
from ._checks import check_device
from ._rows import Requests, Rows, chains, rows_of, tensor
from ._store import SCALED, Store

NAME = "fewstep"  # of the attention that reads pages


class PagedKeys(torch.Tensor):
    """What stands for all keys between a cache in pages and attention that reads them there.

    Its numbers are the rows that were appended. Nothing but attention may read it: whatever took
    it for the keys would see those rows alone.
    """

    pages: PagedRows
    layer: int

    @classmethod
    def of(cls, rows: torch.Tensor, pages: PagedRows, layer: int) -> PagedKeys:
        """Return rows [B, G, N, D] that stand for the keys of a layer."""
        keys: PagedKeys = rows.as_subclass(cls)
        keys.pages, keys.layer = pages, layer
        return keys

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ == "__get__":  # shape, dtype, device
            plain: Any = super().__torch_function__
            return plain(func, types, args, kwargs or {})
        raise NotImplementedError(
            "fewstep.transformers: keys of a paged cache can be read by attention 'fewstep' alone, "
            f"got {func.__name__}"
        )


class PagedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """What transformers asks a layer of a cache; its keys are in the store of the whole."""

    is_croppable = True
    is_sliding = False  # attention leaves out what is behind a window

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the store makes memory for a layer."""

    def update(self, *_: Any, **__: Any) -> Any:
        """Refuse: rows go through the whole cache."""
        raise NotImplementedError("fewstep.transformers: layers are updated through their cache")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys that there will be and the first one's slot."""
        return self.tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens of the layer."""
        return self.tokens

    def get_max_length(self) -> int:
        """Return -1: there is no other limit than the pages."""
        return -1


class PagedRows(Cache):
    """A cache of transformers that writes the rows of a forward pass where `rows` says."""

    layers: list[Any]

    def __init__(self, store: Store, layers: int) -> None:
        super().__init__(layers=[PagedLayer() for _ in range(layers)])
        self.store = store
        self.rows: Rows | None = None

    def begin(self, layer_idx: int, like: torch.Tensor, batch: int, count: int) -> Rows:
        """Return where the caller is to append rows of a layer, which are where `like` is."""
        assert self.rows is not None
        return self.rows

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append rows, shape (B, G, N, D) each; return what stands for all keys."""
        rows = self.begin(layer_idx, key_states, key_states.shape[0], key_states.shape[2])
        self.store.append(layer_idx, flat(key_states), flat(value_states), rows)
        return PagedKeys.of(key_states, self, layer_idx), value_states

    def requests(self, first: Sequence[int] | None) -> Requests:
        """Return as what the rows attend; `first` are the first tokens that are no padding."""
        assert self.rows is not None
        return self.rows.requests


def flat(states: torch.Tensor) -> torch.Tensor:
    """Return states [B, G, N, D] as rows [B * N, G, D]."""
    batch, heads, count, width = states.shape
    return states.transpose(1, 2).reshape(batch * count, heads, width)


class PagedCache(PagedRows):
    """A cache for ``model.generate`` that grows without copying.

    Keys and values are written once, into pages, and ``"fewstep"`` attention reads them there.
    Copies of a text, such as beams, share pages until they differ.

    Parameters
    ----------
    config : PreTrainedConfig or PreTrainedModel
        Of the model, whose attention should be set to ``"fewstep"``: any other gets a copy of all
        keys in every step.
    tokens : int, optional
        Room for tokens, over the whole batch: 65,536 by default. What is not used takes no memory
        on the CPU; on a CUDA device all of it is taken at once.
    page_tokens : int, default 32
        Tokens of a page.
    dtype : {"int8", "float8_e4m3fn"}, optional
        Quantise keys and values per token and head; as the model has them when left out.
    device : torch.device or str, optional
        Where keys and values are, the CPU or a CUDA device: by default that of the model, and of a
        config the CPU.

    Raises
    ------
    ValueError
        A number out of range, another `dtype` or `device`; in use: keys that are elsewhere.
    NotImplementedError
        This build has no kernels for the device.
    MemoryError
        In use: there are more tokens than there is room for.

    Notes
    -----
    Left-padded batches are fine, and so are sliding windows: tokens behind a window stay in their
    pages and are not read.

    Examples
    --------
    >>> import fewstep.transformers, torch, transformers
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    ...     num_attention_heads=2, pad_token_id=0, eos_token_id=None)
    >>> model = transformers.LlamaForCausalLM(config)
    >>> model.set_attn_implementation("fewstep")
    >>> cache = fewstep.transformers.PagedCache(model)
    >>> tokens = model.generate(
    ...     torch.tensor([[5, 6, 7]]), cache=cache, max_new_tokens=4, do_sample=False)
    >>> tokens.shape, cache.get_seq_length()
    (torch.Size([1, 7]), 6)
    """

    def __init__(
        self,
        config: Any,
        *,
        tokens: int = 1 << 16,
        page_tokens: int = 32,
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        if device is None:
            device = config.device if isinstance(config, torch.nn.Module) else "cpu"
        check_device("fewstep.transformers.PagedCache", torch.device(device))
        config = getattr(config, "config", config).get_text_config(decoder=True)
        check_cache_dtype("fewstep.transformers.PagedCache", "dtype", dtype)
        if tokens < 1:
            raise ValueError(
                f"fewstep.transformers.PagedCache: 'tokens' must be 1 or more, got {tokens}"
            )
        store = Store(-(-tokens // max(page_tokens, 1)), page_tokens, dtype, device=device)
        super().__init__(store, config.num_hidden_layers)
        self.config = config
        self.sequences: list[int] = []
        self._laid: Rows | None = None  # as `rows`, on the host

    @property
    def in_pages(self) -> bool:
        """Whether the model's attention reads pages."""
        return bool(self.config._attn_implementation == NAME)

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append rows, shape (B, G, N, D) each; return what stands for all keys."""
        keys, values = super().update(key_states, value_states, layer_idx)
        if self.in_pages:
            return keys, values
        return self.gathered(layer_idx)

    def begin(self, layer_idx: int, like: torch.Tensor, batch: int, count: int) -> Rows:
        """Count rows of a layer; the first layer of a forward pass makes room for them."""
        layer, length = self.layers[layer_idx], self.get_length()
        rows = self.rows
        if rows is None or layer.tokens == length:
            rows = self._extend(like, batch, count)
        elif layer.tokens + count != length:
            raise RuntimeError(
                f"fewstep.transformers.PagedCache: layer {layer_idx} must have the {length} tokens "
                f"of the others, got {layer.tokens}; a forward pass broke off, call reset"
            )
        layer.tokens += count
        return rows

    def get_length(self) -> int:
        """Return the tokens that there is room made for."""
        return self.store.pool.length(self.sequences[0]) if self.sequences else 0

    def _extend(self, like: torch.Tensor, batch: int, count: int) -> Rows:
        pool = self.store.pool
        if like.device != self.store.device:
            raise ValueError(
                "fewstep.transformers.PagedCache: 'key_states' must be on the cache's device, "
                f"{self.store.device}, got {like.device}"
            )
        if not self.sequences:
            self.sequences = [pool.add()[0] for _ in range(batch)]
        if batch != len(self.sequences):
            raise ValueError(
                "fewstep.transformers.PagedCache: 'key_states' must have the batch of the cache, "
                f"{len(self.sequences)}, got {batch}"
            )
        length = self.get_length()
        try:
            self.store.extend(self.sequences, [count] * batch)
        except MemoryError:
            pages, page_tokens = self.store.shape
            raise MemoryError(
                f"fewstep.transformers.PagedCache: {batch} x {length + count} tokens must fit in "
                f"{pages} pages of {page_tokens}; make it with more 'tokens'"
            ) from None
        table = pool.page_table(self.sequences)
        indptr = np.arange(batch + 1, dtype=np.int32) * count
        self._laid = rows_of(np.full(batch, length, np.int32), indptr, table)
        self.rows = self._laid.on(self.store.device)
        return self.rows

    def requests(self, first: Sequence[int] | None) -> Requests:
        """Return as what the rows attend; `first` are the first tokens that are no padding."""
        rows, laid = self.rows, self._laid
        assert rows is not None
        assert laid is not None
        if first is None or not any(first):
            return rows.requests
        key = hash(tuple(first))
        if key not in rows.padded:
            requests = self._padded(laid, np.asarray(first, np.int32))
            rows.padded[key] = requests.on(self.store.device)
        return rows.padded[key]

    def _padded(self, rows: Rows, first: Any) -> Requests:
        """Return requests over single tokens, from the first that is no padding on."""
        indptr, length, table = (t.numpy() for t in (rows.indptr, rows.length, rows.table))
        page_tokens = self.store.shape[1]
        slots = (table[:, :, None] * page_tokens + np.arange(page_tokens)).reshape(len(table), -1)
        columns = np.minimum(first[:, None] + np.arange(slots.shape[1]), slots.shape[1] - 1)
        counts = indptr[1:] - indptr[:-1]
        lost = np.clip(first - length, 0, counts)  # rows that are padding themselves
        requests = chains(
            np.maximum(length + counts - first, 0).astype(np.int32),
            (counts - lost).astype(np.int32),
            np.take_along_axis(slots, columns, 1).astype(np.int32),
            single=True,
        )
        if not lost.any():
            return requests
        kept = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts) >= np.repeat(lost, counts)
        index = tensor(np.flatnonzero(kept), np.int64)
        return Requests(requests.indptr, requests.kv_len, requests.table, True, index)

    def gathered(self, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of all keys and values of a layer, shape (B, G, S, D) each."""
        if self.store.dtype:
            raise NotImplementedError(
                f"fewstep.transformers.PagedCache: 'dtype' {self.store.dtype} must be read by "
                f"attention 'fewstep', got {self.config._attn_implementation}"
            )
        assert self.rows is not None
        pages = self.rows.table.clamp_min(0).long()
        count = self.layers[layer_idx].tokens
        return tuple(  # type: ignore[return-value]
            part[layer_idx][pages].flatten(1, 2)[:, :count].transpose(1, 2)
            for part in (self.store.k, self.store.v)
        )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; their number is given with a minus, as transformers does."""
        if tokens_to_remove > 0:
            raise ValueError(
                "fewstep.transformers.PagedCache.crop: 'tokens_to_remove' must be 0 or less, got "
                f"{tokens_to_remove}"
            )
        self._select(self.sequences, self.get_length() + tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        self._select([], 0)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let each sequence go on from another one, as beam search asks."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the sequences that are listed, in this order, maybe several times."""
        if self.sequences:
            chosen = tensor(self.sequences, np.int64)[on_host(indices)]
            self._select(chosen.tolist(), self.get_length())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        self._select([s for s in self.sequences for _ in range(repeats)], self.get_length())

    def _select(self, sequences: list[int], length: int) -> None:
        pool = self.store.pool
        chosen = [pool.fork(sequence, length) for sequence in sequences]
        for sequence in self.sequences:
            pool.free(sequence)
        self.sequences, self.rows = chosen, None
        for layer in self.layers:
            layer.tokens = min(layer.tokens, length)


def check_cache_dtype(function: str, name: str, dtype: Any) -> None:
    """Raise ValueError unless a cache can be of a type."""
    if dtype is not None and dtype not in SCALED:
        names = " or ".join(SCALED)
        raise ValueError(f"{function}: '{name}' must be {names} or None, got {dtype!r}")
