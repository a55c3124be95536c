# SPDX-License-Identifier: Apache-2.0
"""Cases of ``decoder.run`` and ``decoder.chain``: kinds of models, of caches and of batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

E, INNER, LAYERS, VOCABULARY, TOKENS = 48, 80, 2, 70, 33
OPTIONS = ("biases", "head_norms", "window", "int8_cache", "float8_cache", "joined", "flat")


@dataclass(frozen=True)
class Case:
    """A decoder and a batch: rows of each request behind the tokens that it has."""

    name: str
    rows: tuple[int, ...] = (1,)
    lengths: tuple[int, ...] = (9,)
    heads: tuple[int, int, int] = (4, 2, 16)
    dtype: str = "float32"
    kind: str = "float32"
    options: tuple[str, ...] = ()
    tree: str | None = None  # "bits", "depth" or "block"
    deterministic: bool = True
    T: int = 4

    @property
    def scaled(self) -> str | None:
        """The type of a cache of bytes."""
        kinds = {"int8_cache": "int8", "float8_cache": "float8_e4m3fn"}
        return next((kind for option, kind in kinds.items() if self.has(option)), None)

    def has(self, option: str) -> bool:
        """Tell whether an option is taken."""
        assert option in OPTIONS
        return option in self.options

    @property
    def indptr(self) -> np.ndarray:
        """Ends of the requests' rows."""
        return np.cumsum([0, *self.rows], dtype=np.int32)

    def batch(self) -> dict[str, np.ndarray]:
        """Return bits, depth and block of random trees; with "block" two nodes ran before."""
        if self.tree is None:
            return {}
        rng = np.random.default_rng(3)
        before = 2 if self.tree == "block" else 0
        bits, depth = [], []
        for count in self.rows:
            seen: list[int] = []
            for node in range(count + before):
                parent = int(rng.integers(-1, node)) if node else -1
                seen.append((seen[parent] if parent >= 0 else 0) | 1 << node)
            for word in seen[before:]:
                bits.append([word & 0xFFFFFFFF, word >> 32])
                depth.append(word.bit_count() - 1)
        out: dict[str, Any] = {"bits": np.array(bits, np.uint32)}
        if self.tree != "bits":
            out["depth"] = np.array(depth, np.int32)
        if self.tree == "block":
            out["block"] = np.array(self.rows, np.int32) + before
        return out


CASES = (
    Case("one"),
    Case("float16", (1, 3), (0, 7), dtype="float16", kind="float16", options=("joined",)),
    Case("bfloat16", (5, 1, 2), (3, 30, 8), dtype="bfloat16", kind="bfloat16"),
    Case("int8", (2, 2), (3, 9), dtype="bfloat16", kind="int8", options=("int8_cache", "joined")),
    Case("float8", (2, 2), (3, 9), dtype="bfloat16", options=("float8_cache", "joined")),
    Case("int4", (3,), (5,), dtype="float32", kind="int4", options=("biases",)),
    Case("qwen2", (4, 1), (2, 6), (3, 1, 32), dtype="bfloat16", options=("biases", "joined")),
    Case("qwen3", (4, 1), (2, 6), (4, 2, 16), options=("head_norms",)),
    Case("qwen3-half", (7,), (11,), (2, 2, 32), "float16", "float16", ("head_norms", "int8_cache")),
    Case("qwen3-float8", (7,), (11,), options=("head_norms", "float8_cache")),
    Case("mistral", (9, 2), (12, 3), (2, 1, 16), options=("window", "joined")),
    Case("flat", (3, 2), (4, 9), options=("flat",)),
    Case("bits", (6, 3), (4, 9), dtype="bfloat16", kind="bfloat16", tree="bits"),
    Case("depth", (40, 7), (4, 9), tree="depth", options=("window",)),
    Case("block", (6, 11), (14, 9), tree="block", options=("joined", "int8_cache")),
    Case("long", (300, 2, 513), (5, 700, 0), (2, 1, 16), options=("window",), T=32),
    Case("long-flat", (260, 3), (0, 9), (1, 1, 16), options=("flat",)),
    Case("float8 tree", (6, 11), (14, 9), tree="block", options=("float8_cache",)),
    Case("parts", (1, 2), (2100, 40), (2, 1, 16), T=32),
    Case("in the batch", (1, 3), (1500, 4), (2, 1, 16), deterministic=False, T=32),
)

INT8 = ("int8_cache", "joined")
CHAINS = (  # with how many tokens to draft for each request
    (Case("one"), (4,)),
    (Case("ragged", (3, 1, 6), (2, 9, 0)), (2, 5, 1)),
    (Case("bfloat16", (5, 1), (3, 30), dtype="bfloat16", kind="bfloat16"), (3, 3)),
    (Case("int8", (2, 2), (3, 9), dtype="bfloat16", kind="int8", options=INT8), (3, 1)),
    (Case("float8", (2, 2), (3, 9), dtype="bfloat16", options=("float8_cache",)), (3, 1)),
    (Case("qwen3", (4, 1), (2, 6), (4, 2, 16), options=("head_norms",)), (1, 4)),
    (Case("mistral", (9, 2), (12, 3), (2, 1, 16), options=("window", "biases")), (6, 6)),
    (Case("flat", (3, 2), (4, 9), options=("flat",)), (2, 4)),
    (Case("long", (300, 2), (5, 700), (2, 1, 16), T=32), (2, 3)),
)
