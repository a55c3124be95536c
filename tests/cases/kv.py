# SPDX-License-Identifier: Apache-2.0
"""Cases of the KV cache's ops: layouts, page sizes, ragged batches, head dims.

Of ``kv.append``, ``kv.commit``, ``kv.gather``, ``kv.copy_pages``, ``kv.truncate``,
``kv.export_tokens``, ``kv.import_tokens``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.kv import BITS, SCALED, bits_of

# How the caches of a layer lie in memory: [P, T, G, D] each; [P, G, T, D] each; [P, 2, T, G, D];
# [P, T, 2, G, D].
LAYOUTS = ("tokens", "heads", "pages", "joined")
DTYPES = ("float32", "bfloat16", "float16")
CACHE_DTYPES = (*DTYPES, *SCALED)


@dataclass(frozen=True)
class Case:
    """A batch and its caches. Without `paged`, T is what every request has."""

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    G: int = 2
    D: int = 16
    T: int = 4
    paged: bool = True
    layout: str = "tokens"
    offset: int = 0
    gap: int = 0

    @property
    def name(self) -> str:
        """A name for pytest."""
        kind = "paged" if self.paged else "flat"
        return f"{kind}-{self.layout}-T{self.T}-G{self.G}-D{self.D}-B{len(self.rows)}"

    @property
    def pages(self) -> int:
        """Pages that the caches have: more than are in use."""
        return len(self.rows) * (self.columns if self.paged else 1) + 2 * self.paged

    @property
    def columns(self) -> int:
        """Columns of the page table."""
        most = max((n + m for n, m in zip(self.rows, self.lengths, strict=True)), default=0)
        return -(-most // self.T) + 1

    def table(self) -> np.ndarray | None:
        """Return pages in a random order; entries that no slot needs are -1."""
        if not self.paged:
            return None
        rng = np.random.default_rng(5)
        table = rng.permutation(self.pages)[: len(self.rows) * self.columns]
        table = table.astype(np.int32).reshape(len(self.rows), self.columns)
        for b, (n, m) in enumerate(zip(self.rows, self.lengths, strict=True)):
            table[b, -(-(n + m) // self.T) :] = -1
        return table

    def cache(self, dtype: str, seed: int = 0) -> dict[str, np.ndarray]:
        """Return random bits for a layer's caches."""
        rng = np.random.default_rng([7, seed])
        shape = (self.pages, self.T, self.G, self.D)
        kind = BITS[dtype]
        info = np.iinfo(kind)
        out: dict[str, Any] = {
            name: rng.integers(info.min, info.max, shape, kind) for name in ("k", "v")
        }
        if dtype in SCALED:
            for name in ("k_scale", "v_scale"):
                out[name] = rng.normal(size=shape[:3]).astype(np.float32)
        return out

    def new_rows(self, dtype: str, seed: int = 0) -> dict[str, np.ndarray]:
        """Return the bits of rows to append."""
        rng = np.random.default_rng([8, seed])
        shape = (sum(self.rows), self.G, self.D)
        return {name: bits_of(rng.normal(size=shape), dtype) for name in ("k", "v")}


CASES = (
    Case((5,), (7,), T=16, paged=False),
    Case((5,), (7,), T=16, paged=False, layout="heads"),
    Case((1, 0, 3), (0, 4, 2), T=9, paged=False, layout="joined", gap=3),
    Case((4, 1), (3, 8), layout="pages", offset=1),
    Case((4, 0, 6), (3, 8, 0), G=3, D=17, T=1),
    Case((2, 9), (6, 1), G=1, D=80, T=3, layout="heads", gap=5),
    Case((3, 2), (15, 16), G=8, D=128, T=16, layout="joined"),
    Case((7,), (30,), G=1, D=1, T=32, offset=3),
    Case((2,), (1,), G=2, D=256, T=2, layout="pages", gap=1),
    Case((0, 0), (1, 0), T=2),
    Case((), (), T=2),
)
