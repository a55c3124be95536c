# SPDX-License-Identifier: Apache-2.0
"""Keys and values of all layers in pages, and the pool that hands the pages out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import _core
from .._transfer import uploaded
from ..kv import Pool, append, commit, copy_pages
from ..linear import aligned
from ..tree import attention
from ._rows import Requests, Rows, tensor

FITTING = (torch.float32, torch.float16, torch.bfloat16)
SCALED = {"int8": torch.int8, "float8_e4m3fn": torch.float8_e4m3fn}  # bytes, with scales


class Store:
    """A paged cache of the layers that write to it.

    A layer has memory once it has keys, and that is taken up page by page: what is reserved costs
    nothing until it is written. `dtype` is one of `SCALED`, or None for that of keys and values.
    """

    def __init__(
        self,
        pages: int,
        page_tokens: int,
        dtype: str | None = None,
        deterministic: bool = False,
        device: Any = "cpu",
    ) -> None:
        self.pool = Pool(pages, page_tokens)
        self.shape = (pages, page_tokens)
        self.dtype, self.deterministic = dtype, deterministic
        self.k: dict[int, torch.Tensor] = {}
        self.v: dict[int, torch.Tensor] = {}
        self.scales: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._flat: dict[int, tuple[torch.Tensor, ...]] = {}
        self.scratch = torch.empty(0, dtype=torch.int64, device=device)
        self.device = self.scratch.device  # which one, where `device` does not say that

    def _make(self, layer: int, like: torch.Tensor) -> None:
        shape = (*self.shape, *like.shape[1:])
        dtype = SCALED[self.dtype] if self.dtype else like.dtype
        count = int(np.prod(shape)) * dtype.itemsize
        self.k[layer], self.v[layer] = (
            aligned(count, like).view(dtype).view(shape) for _ in range(2)
        )
        if self.dtype:
            k, v = (torch.empty(shape[:3], device=self.device) for _ in range(2))
            self.scales[layer] = k, v
        parts = (self.k[layer], self.v[layer], *self.scales.get(layer, ()))
        self._flat[layer] = tuple(part.view(-1, 1, *part.shape[2:]) for part in parts)

    def caches(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return a layer's keys, values and their scales, made for rows [N, G, D] like these."""
        if layer not in self.k:
            self._make(layer, like)
        return self.k[layer], self.v[layer], *self.scales.get(layer, (None, None))

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor, rows: Rows, **rope: Any) -> None:
        """Write a layer's keys and values, shape (N, G, D) each, into their slots."""
        if layer not in self.k:
            self._make(layer, k)
        if self.dtype:
            rope["k_scale"], rope["v_scale"] = self.scales[layer]
        append(
            k, v, self.k[layer], self.v[layer], rows.indptr, rows.length, page_table=rows.table,
            **rope,
        )  # fmt: skip

    def attend(
        self, layer: int, q: torch.Tensor, requests: Requests, out: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """Attend from rows, shape (N, H, D), to what requests see of a layer."""
        if requests.single:
            k, v, *scales = self._flat[layer]
        else:
            k, v, scales = self.k[layer], self.v[layer], list(self.scales.get(layer, ()))
        if scales:
            options["k_scale"], options["v_scale"] = scales
        options.update(requests.options)
        attention(
            q, k, v, requests.kv_len, requests.indptr, page_table=requests.table, out=out,
            workspace=self.workspace(q, k, requests), deterministic=self.deterministic, **options,
        )  # fmt: skip
        return out

    def workspace(self, q: torch.Tensor, k: torch.Tensor, requests: Requests) -> torch.Tensor:
        """Return scratch for attention, the same as before where that is large enough."""
        n, h, d = q.shape
        longest = requests.longest if self.deterministic else 0
        size = _core.tree_attention_workspace_bytes(
            n, h, k.shape[2], d, longest, self.deterministic
        )
        needed = size // 8
        if self.scratch.size(0) < needed:
            self.scratch = torch.empty(needed, dtype=torch.int64, device=self.device)
        return self.scratch

    def extend(self, sequences: Sequence[int], n_tokens: Sequence[int]) -> None:
        """Make room behind the tokens of sequences, for all of them or none."""
        pairs = []
        done: list[tuple[int, int]] = []
        try:
            for sequence, count in zip(sequences, n_tokens, strict=True):
                length = self.pool.length(sequence)
                pairs.append(self.pool.extend(sequence, count))
                done.append((sequence, length))
        except MemoryError:
            for sequence, length in done:
                self.pool.truncate(sequence, length)
            raise
        finally:  # pages that were exchanged stay so
            self.copy(pairs)

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy pages to others, as `fewstep.kv.Pool.extend` says; -1 for none."""
        pairs = [pair for pair in pairs if pair[0] >= 0]
        if not (pairs and self.k):
            return
        source, target = self._placed(*(tensor(part) for part in zip(*pairs, strict=True)))
        copy_pages(*self.parts(), source, target, **self.part_scales())

    def commit(self, sequences: Sequence[int], path: Any, accepted: Any, base: Any) -> None:
        """Move accepted rows of draft blocks, whose roots lie at `base`, behind their roots."""
        given = self._placed(path, accepted, base, self.pool.page_table(sequences))
        commit(*self.parts(), *given[:3], page_table=given[3], first=1, **self.part_scales())

    def _placed(self, *arrays: Any) -> Sequence[Any]:
        """Return arrays where the caches are."""
        return arrays if self.device.type == "cpu" else uploaded(self.device, arrays)

    def parts(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the keys and the values of all layers."""
        return list(self.k.values()), list(self.v.values())

    def part_scales(self) -> dict[str, list[torch.Tensor]]:
        """Return their scales by the names of arguments, where they have some."""
        if not self.dtype:
            return {}
        k, v = zip(*self.scales.values(), strict=True)
        return {"k_scale": list(k), "v_scale": list(v)}
