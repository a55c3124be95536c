# SPDX-License-Identifier: Apache-2.0
"""Memory that the fused layers of a model share: tables of RoPE, and what lies between calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ._cache import NAME

BLOCK = 256  # rows of a call of a linear layer; more take longer a row, and on a GPU are torch's
KEPT = 1024  # rows up to which memory is kept for the next call


@dataclass(frozen=True)
class Sizes:
    """Of a decoder layer: hidden and intermediate size, heads, their width."""

    hidden: int
    inner: int
    heads: int
    groups: int
    dim: int
    dtype: torch.dtype

    @property
    def qkv(self) -> int:
        """Return the outputs of the three projections together."""
        return (self.heads + 2 * self.groups) * self.dim


class Buffers:
    """Results of the calls of a layer for a number of rows; the next layer writes over them."""

    def __init__(self, flat: torch.Tensor, n: int, s: Sizes) -> None:
        self.rows = n
        sizes = (s.qkv, s.heads * s.dim, s.heads * s.dim, s.heads * s.dim, s.hidden, s.inner)
        used: Any = flat[: n * sum(sizes)]
        parts = used.split([n * size for size in sizes])
        self.qkv, turned, other, attended, self.middle, self.gated = (
            part.view(n, -1) for part in parts
        )
        heads: Any = self.qkv.view(n, -1, s.dim)
        cut = heads.split([s.heads, s.groups, s.groups], 1)
        self.q, self.k, self.v = cut
        self.turned, self.other = (t.view(1, n, s.heads, s.dim) for t in (turned, other))
        self.turned_q = self.turned[0]
        self.attended_flat, self.attended = attended, attended.view(n, s.heads, s.dim)
        device = flat.device
        self.indptr = torch.arange(0, n + 1, n, dtype=torch.int32, device=device)
        self.zero = torch.zeros(1, dtype=torch.int32, device=device)
        widest = max(s.hidden, s.inner, s.heads * s.dim)
        words = 8 + min(n, BLOCK) * (widest + 64)
        self.workspace = torch.empty(words, dtype=torch.int64, device=device)


class Scratch:
    """Buffers by the number of rows, and the RoPE tables, which grow with the positions.

    On a device both are of one pass alone: nobody waits for positions there, and a CUDA graph keeps
    what it was captured with.
    """

    def __init__(self, sizes: Sizes, rotary: Any) -> None:
        self.sizes, self.rotary = sizes, rotary
        self.width = sizes.qkv + 3 * sizes.heads * sizes.dim + sizes.hidden + sizes.inner
        self._flat = torch.empty(0, dtype=sizes.dtype)
        self._buffers: dict[int, Buffers] = {}
        self._ids: tuple[torch.Tensor, int] | None = None
        self._ours = False
        self.positions = torch.empty(0, dtype=torch.int32)  # of the rows of this pass
        self.cos = self.sin = torch.empty(0, 0)
        self.reach = 0  # positions of the tables: a tensor's length is no cheap question

    def buffers(self, n: int) -> Buffers:
        """Return memory for n rows, the same as in the call before."""
        found = self._buffers.get(n)
        if found is not None:
            return found
        if n > KEPT:
            self._buffers = {n: Buffers(self._make(n), n, self.sizes)}
            self._flat = self._flat[:0]
        else:
            if len(self._flat) < n * self.width:
                self._flat, self._buffers = self._make(max(n, 32)), {}
            self._buffers[n] = Buffers(self._flat, n, self.sizes)
        return self._buffers[n]

    def _make(self, n: int, device: Any = None) -> torch.Tensor:
        return torch.empty(n * self.width, dtype=self.sizes.dtype, device=device)

    def begin(self, ids: torch.Tensor, batch: int, config: Any, anew: bool) -> bool:
        """Take the position ids [1 or B, N] of a pass; tell whether its layers run fused.

        All layers give the same tensor, and what is found for the first holds for the others.
        """
        key = self._ids
        if anew or key is None or key[0] is not ids or key[1] != ids._version:
            ours: bool = config._attn_implementation == NAME
            each = ids.expand(batch, -1).reshape(-1)
            if ids.is_cpu:
                self.positions = each.int()
                self.cover(self.positions)
            elif ours:
                ours = 0 < each.size(0) <= BLOCK
                if ours:
                    self._begin_there(each)
            self._ids, self._ours = (ids, ids._version), ours
        return self._ours

    def _begin_there(self, positions: torch.Tensor) -> None:
        """Make the buffers and tables of a pass on a device: a row of the tables for each of it."""
        n, device = positions.size(0), positions.device
        self.positions = torch.arange(n, dtype=torch.int32, device=device)
        self.cos, self.sin = self._tables(positions)
        self._buffers = {n: Buffers(self._make(n, device), n, self.sizes)}
        self.reach = 0  # of tables on the CPU

    def cover(self, positions: torch.Tensor) -> None:
        """Make the tables long enough for positions."""
        last = int(positions.max())
        if last >= self.reach:
            self.grow(last + 1)

    @torch.no_grad()
    def grow(self, count: int) -> None:
        """Make the tables anew for `count` positions and more."""
        if not self.reach:  # a device may have been there
            self._flat, self._buffers = self._make(0), {}
        self.reach = max(2 * self.reach, count, 512)
        self.cos, self.sin = self._tables(torch.arange(self.reach))

    def _tables(self, positions: torch.Tensor) -> list[torch.Tensor]:
        """Return the cosines and sines of positions, shape (N, D / 2) each."""
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        cos, sin = self.rotary(like, positions[None])
        half = cos.shape[-1] // 2
        return [t[0, :, :half].float().contiguous() for t in (cos, sin)]
