# SPDX-License-Identifier: Apache-2.0
"""Cases of ``tree.attention``: rows, lengths, heads, types, caches, masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from cases.tree import random_tree
from reference.kv import SCALED, e4m3_values

DTYPES = ("float32", "bfloat16", "float16")


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a type, as float32."""
    import torch

    return (
        torch.from_numpy(np.asarray(values, np.float32)).to(getattr(torch, dtype)).float().numpy()
    )


def tree_bits(forest: list[list[int]]) -> np.ndarray:
    """Ancestor bits of trees given as parents."""
    words = max((max(map(len, forest), default=0) + 31) // 32, 1)
    rows = []
    for parents in forest:
        masks: list[int] = []
        for node, parent in enumerate(parents):
            masks.append(1 << node | (masks[parent] if parent >= 0 else 0))
        rows += [[mask >> 32 * w & 0xFFFFFFFF for w in range(words)] for mask in masks]
    return np.array(rows, np.uint32).reshape(len(rows), words)


def problem(
    requests: list[tuple[int, int]],
    *,
    earlier: list[int] | None = None,
    heads: int = 4,
    groups: int = 2,
    dim: int = 64,
    dtype: str = "float32",
    draft: str = "cache",
    page: int = 0,
    tree: str = "",
    cache: str = "",
    sinks: bool = False,
    seed: int = 0,
    spread: float = 1.0,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of the op for requests of (prefix, rows), with q, k, v rounded to `dtype`.

    `page` is the tokens of a page, 0 for a contiguous cache; `tree` is "star" or "random"; and
    `earlier` the tokens of each request's block before its rows, between prefix and rows. `cache`
    is the type of a cache of bytes: float8_e4m3fn numbers are given as float32.
    """
    rng = np.random.default_rng([77, seed])
    ends = np.cumsum([0, *(rows for _, rows in requests)]).astype(np.int32)
    total, batch = int(ends[-1]), len(requests)
    before = earlier or [0] * batch
    blocks = [n + rows for n, (_, rows) in zip(before, requests, strict=True)]
    own = [n if draft == "cache" else 0 for n in blocks]
    length = np.array([p + n for (p, _), n in zip(requests, own, strict=True)], np.int32)
    longest = max(int(length.max(initial=0)), 1)
    a: dict[str, Any] = {"indptr": ends, "kv_len": length.reshape(batch), **options}
    if page:
        pages = (longest + page - 1) // page
        order = rng.permutation(batch * pages + 3)[: batch * pages]
        a["page_table"] = order.reshape(batch, pages).astype(np.int32)
        shape = (batch * pages + 3, page, groups, dim)
    else:
        shape = (batch, longest + 2, groups, dim)
    a["q"] = rounded(spread * rng.normal(size=(total, heads, dim)), dtype)
    for name in ("k", "v"):
        if cache == "float8_e4m3fn":
            numbers = e4m3_values()
            a[name] = rng.choice(numbers[np.isfinite(numbers)], shape).astype(np.float32)
            a[f"{name}_scale"] = rng.uniform(0.003, 0.01, shape[:3]).astype(np.float32)
        elif cache:
            a[name] = rng.integers(-127, 128, shape).astype(np.int8)
            a[f"{name}_scale"] = rng.uniform(0.01, 0.03, shape[:3]).astype(np.float32)
        else:
            a[name] = rounded(rng.normal(size=shape), dtype)
        if draft == "view":
            a[f"draft_{name}"] = rounded(rng.normal(size=(total, groups, dim)), dtype)
    a["draft"] = draft
    if earlier:
        a["block"] = np.array(blocks, np.int32)
    if sinks:
        a["sinks"] = rng.normal(size=heads).astype(np.float32)
    if tree:
        forest = [
            [-1, *([0] * (n - 1))][:n] if tree == "star" else random_tree(rng, n)[:n]
            for n in blocks
        ]
        rows_of_block = np.cumsum([0, *blocks])
        a["bits"] = tree_bits(forest)[
            [
                row
                for end, (_, n) in zip(rows_of_block[1:], requests, strict=True)
                for row in range(end - n, end)
            ]
        ]
    return a


def cache_dtype(a: dict[str, Any], dtype: str) -> str:
    """Return the type of a problem's cache, beside rows of `dtype`."""
    if a["k"].dtype == np.int8:
        return "int8"
    return "float8_e4m3fn" if "k_scale" in a else dtype


def _cases() -> dict[str, dict[str, Any]]:
    """Problems by name, small enough for the scalar kernels."""
    table: dict[str, dict[str, Any]] = {
        f"{rows} rows": {"requests": [(90, rows)], "groups": 1, "heads": 1 + rows % 3}
        for rows in (1, 2, 3, 5, 16, 26, 63, 64, 65)
    }
    table |= {
        f"{keys} keys": {"requests": [(keys - 2, 2)], "heads": 2, "groups": 1, "dim": 16}
        for keys in (2, 3, 15, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 257, 385)
    }
    table |= {
        f"ratio {r}": {"requests": [(40, 3)], "heads": 2 * r, "groups": 2}
        for r in (1, 2, 3, 5, 7, 8, 16)
    }
    table |= {
        f"dim {d}": {"requests": [(140, 2)], "dim": d} for d in (16, 48, 64, 80, 96, 112, 128, 256)
    }
    ragged = [(0, 1), (10, 0), (129, 4), (0, 0), (3, 7), (0, 33)]
    for draft in ("cache", "view", "none"):
        own = {"requests": ragged, "draft": draft}
        table[f"ragged {draft}"] = own
        table[f"tree {draft}"] = {**own, "tree": "random"}
        for page in (1, 3, 16, 128):
            table[f"pages of {page} {draft}"] = {**own, "page": page, "tree": "random"}
        for kind in SCALED:
            table[f"{kind} {draft}"] = {**own, "cache": kind, "page": 5}
        table[f"window {draft}"] = {"requests": [(300, 5), (4, 3)], "draft": draft, "window": 9}
        table[f"window tree {draft}"] = {
            "requests": [(150, 40), (4, 3)], "draft": draft, "window": 5, "tree": "random",
        }  # fmt: skip
    for tree in ("", "random"):
        for window in (0, 4):
            table[f"block {tree or 'chain'} window {window}"] = {
                "requests": ragged, "earlier": [4, 0, 40, 0, 1, 2], "tree": tree, "window": window,
            }  # fmt: skip
    table |= {
        "block in pages": {
            "requests": [(100, 3), (7, 1)], "earlier": [70, 0], "tree": "random", "page": 16,
        },
        "block alone": {"requests": [(0, 1)], "earlier": [140], "tree": "random"},
        "star": {"requests": [(20, 40)], "tree": "star"},
        "tree above 32": {"requests": [(20, 50)], "tree": "random"},
        "tree above 64": {"requests": [(120, 70)], "tree": "random"},
        "window of all": {"requests": [(30, 3)], "window": 1000},
        "window of one": {"requests": [(200, 3)], "window": 1},
        "soft cap": {"requests": [(100, 4)], "softcap": 3.0, "spread": 4.0},
        "large soft cap": {"requests": [(100, 4)], "softcap": 50.0},
        "sinks": {"requests": [(100, 4), (0, 1)], "sinks": True},
        "sinks alone": {"requests": [(0, 2)], "sinks": True, "draft": "none"},
        "large logits": {"requests": [(260, 4)], "spread": 30.0},
        "scale": {"requests": [(50, 4)], "scale": 0.7},
        "no rows": {"requests": [(5, 0)]},
        "no requests": {"requests": []},
        "256 rows": {"requests": [(10, 256)], "heads": 1, "groups": 1, "dim": 16},
        "parts": {"requests": [(700, 2), (30, 2)], "heads": 2, "groups": 1, "dim": 32},
        "everything": {
            "requests": ragged, "page": 7, "tree": "random", "window": 50, "softcap": 10.0,
            "sinks": True, "heads": 6, "dim": 80,
        },
    }  # fmt: skip
    return table


def _cases_of_bytes() -> dict[str, dict[str, Any]]:
    """More problems of caches of bytes, for kernels that have products of their own for them."""
    table: dict[str, dict[str, Any]] = {}
    for kind in SCALED:
        for dim in (80, 256):
            table[f"{kind} dim {dim}"] = {"requests": [(140, 2)], "cache": kind, "dim": dim}
        for draft, dim in (("cache", 64), ("view", 96), ("view", 144)):
            table[f"{kind} {draft} of many rows of {dim}"] = {
                "requests": [(150, 40), (64, 70)], "draft": draft, "cache": kind, "dim": dim,
                "tree": "random", "page": 7, "window": 100, "softcap": 10.0, "sinks": True,
            }  # fmt: skip
    return table


CASES = _cases() | _cases_of_bytes()

# 64 rows and more of a request and KV head, for which CUDA has a kernel of its own in 16-bit types.
LONG_RAGGED = [(300, 60), (5, 10), (64, 0), (130, 90)]
MANY_ROWS: dict[str, dict[str, Any]] = {
    # One KV head of `heads` queries: rows of a request are heads times tokens.
    "64 rows": {"requests": [(90, 64)], "heads": 1},
    "65 rows": {"requests": [(90, 65)], "heads": 1},
    "127 rows": {"requests": [(3, 127)], "heads": 1},
    "128 rows, 4 to a token": {"requests": [(200, 32)], "heads": 4},
    "129 rows, 3 to a token": {"requests": [(64, 43)], "heads": 3},
    "256 rows": {"requests": [(300, 64)], "heads": 4},
    "258 rows, 6 to a token": {"requests": [(63, 43)], "heads": 6},
    "a few keys": {"requests": [(0, 64)], "heads": 1},
    "no keys": {"requests": [(0, 64)], "heads": 1, "draft": "none", "sinks": True},
    "no draft": {"requests": [(130, 64)], "heads": 2, "draft": "none"},
    "ragged": {"requests": LONG_RAGGED, "heads": 8, "groups": 2},
    "tree": {"requests": LONG_RAGGED, "heads": 4, "tree": "random"},
    "parts": {"requests": [(1300, 64)], "heads": 2, "groups": 2, "tree": "random"},
    "window": {"requests": [(400, 70), (9, 80)], "heads": 2, "window": 33},
    "window of a tree": {"requests": [(400, 70)], "heads": 2, "window": 5, "tree": "random"},
    "soft cap": {"requests": [(100, 64)], "heads": 1, "softcap": 3.0, "spread": 4.0},
    "sinks": {"requests": [(100, 64)], "heads": 2, "sinks": True},
    "large logits": {"requests": [(260, 64)], "heads": 1, "spread": 30.0},
    "everything": {
        "requests": LONG_RAGGED, "page": 7, "tree": "random", "window": 50, "softcap": 10.0,
        "sinks": True, "heads": 6, "groups": 2, "draft": "view",
    },
}  # fmt: skip
for draft in ("cache", "view"):
    for page in (1, 8, 16, 64, 96, 128):
        MANY_ROWS[f"pages of {page}, {draft}"] = {
            "requests": LONG_RAGGED, "heads": 4, "page": page, "draft": draft, "tree": "random",
        }  # fmt: skip
