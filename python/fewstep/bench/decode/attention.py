# SPDX-License-Identifier: Apache-2.0
"""``tree.attention`` against every form that torch offers, and the machine's limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch

import fewstep
from fewstep import _core

from ..rivals.flex import flex
from ..rivals.stream import reader
from ..rows import (
    DTYPES,
    Options,
    Row,
    add_bar,
    check,
    difference,
    set_threads,
    timed_row,
    unmeasured_row,
)
from ..timing import Timed, interleaved
from .verification import parents

Call = Callable[[], torch.Tensor]

NAMES = ("attention",)
HEADS, DIM, PAGE = 32, 128, 16
BUDGET_S = 1.2  # of one set of rivals
GEMM = 2048  # rows and columns of the product whose speed is the limit
SHARED_ROWS = 1 << 22  # bytes times heads of a cache that transformers' form may expand
# Rivals round the logits and weights to the type in other places than we do.
TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2}


@dataclass(frozen=True)
class Size:
    """One problem: T rows of B requests that have L keys each, GQA heads on one of the cache."""

    T: int
    L: int
    B: int = 1
    GQA: int = 4
    dtype: str = "bfloat16"
    paged: bool = False
    tree: bool = False  # rows are nodes with three children each, else a chain
    int8: bool = False  # the cache; rivals read what it stands for, in the type of the queries

    @property
    def case(self) -> str:
        """What a row of the output calls it."""
        layout = "tree" if self.tree else "paged" if self.paged else "contiguous"
        return f"{layout} int8" if self.int8 else layout

    @property
    def flops(self) -> float:
        """Of both products."""
        return 4.0 * self.B * HEADS * self.T * self.L * DIM

    @property
    def is_compiled(self) -> bool:
        """Whether FlexAttention is compiled for it, which takes some ten seconds."""
        common = self.B == 1 and self.GQA == 4 and not self.paged
        return common and self.T in (1, 16, 64) and self.L in (2048, 8192)

    @property
    def bytes(self) -> float:
        """Of all keys and values."""
        token = DIM + 4 if self.int8 else DIM * DTYPES[self.dtype].itemsize  # of a head
        return 2.0 * self.B * (HEADS // self.GQA) * self.L * token


def sizes(quick: bool) -> list[Size]:
    """Return the problems, the smallest first; with `quick` those that take no time."""
    if quick:
        return [Size(1, 512), Size(16, 512), Size(5, 512, dtype="float32", paged=True)]
    rows = [Size(t, length) for length in (2048, 8192) for t in (1, 5, 16, 64)]
    rows += [Size(t, 2048) for t in (2, 4, 8, 26, 32, 63, 128)]
    rows += [Size(t, 512) for t in (1, 16, 64)] + [Size(t, 32768) for t in (1, 5, 16, 64)]
    rows += [Size(t, n, dtype="float32") for n in (2048, 8192) for t in (1, 16, 64)]
    rows += [Size(1, 32768, dtype="float32")]
    rows += [Size(t, 4096, GQA=g) for g in (1, 8) for t in (1, 16)]
    rows += [Size(t, 2048, B=8) for t in (1, 16)] + [Size(t, 8192, paged=True) for t in (1, 16)]
    return rows


# What the ratio to a rival is to reach, and the share of a limit.
def bar_of(size: Size, rival: str) -> float:
    """Return the bar of a row, 0 where there is none."""
    common = size.B == 1 and size.GQA == 4 and not size.paged
    if not common:
        return 0.0
    long = size.L >= 2048
    if rival == "torch best" and long and size.dtype == "bfloat16":
        return {1: 3.5, 5: 2.5, 16: 1.8, 64: 1.5}.get(size.T, 0.0)
    if rival == "torch best" and long:
        return {1: 3.0, 16: 1.5, 64: 1.3}.get(size.T, 0.0)
    if rival == "transformers" and size.L == 8192 and size.dtype == "bfloat16":
        return {1: 12.0, 16: 4.0}.get(size.T, 0.0)
    if rival == "read bandwidth" and size.T == 1 and size.L == 32768:
        return 0.8
    if rival == "gemm" and size.T == 64 and long and size.dtype == "bfloat16":
        return 0.6
    return 0.0


class Problem:
    """Tensors of one size, in our layout and in torch's; both see the same numbers."""

    def __init__(self, size: Size) -> None:
        self.size = size
        torch.manual_seed(1)
        kind, groups = DTYPES[size.dtype], HEADS // size.GQA
        shape = (size.B, groups, size.L, DIM)
        self.q = torch.randn(size.B, HEADS, size.T, DIM).to(kind)
        self.k, self.v = torch.randn(shape).to(kind), torch.randn(shape).to(kind)
        self.scales: dict[str, Any] = {}
        if size.int8:
            self.k, self.k_bytes, self.scales["k_scale"] = _quantised(self.k)
            self.v, self.v_bytes, self.scales["v_scale"] = _quantised(self.v)
        self.seen = torch.ones(size.T, size.L, dtype=torch.bool)
        block = self.seen[:, size.L - size.T :].tril_()
        if size.tree:
            for node, parent in enumerate(parents(size.T)):
                block[node] = block[parent] if node else False
                block[node, node] = True
        self.mask = torch.zeros(size.T, size.L, dtype=kind).masked_fill_(~self.seen, -math.inf)
        self.folded_mask = self.mask.repeat(size.GQA, 1)
        self.grouped = self.q.view(size.B, groups, size.GQA * size.T, DIM)

    def ours(self, int8: bool | None = None) -> Call:
        """Return the call of the op; its result is torch's, [B, H, T, D]."""
        size = self.size
        int8 = size.int8 if int8 is None else int8
        rows = self.q.transpose(1, 2).reshape(size.B * size.T, HEADS, DIM).contiguous()
        out = torch.empty_like(rows)
        length = torch.full((size.B,), size.L, dtype=torch.int32)
        ends = torch.arange(size.B + 1, dtype=torch.int32) * size.T
        cache = (self.k_bytes, self.v_bytes) if int8 else (self.k, self.v)
        k, v, table = *(x.transpose(1, 2) for x in cache), None
        if size.paged:
            pages = size.B * size.L // PAGE
            order = torch.randperm(pages)
            table = order.view(size.B, -1).int()
            k, v = (self._paged(x, order) for x in (k, v))
        bits = None
        if size.tree:
            tree = fewstep.tree.build(torch.tensor(parents(size.T), dtype=torch.int32))
            bits = tree.bits.repeat(size.B, 1)
        needed = _core.tree_attention_workspace_bytes(len(rows), HEADS, k.shape[2], DIM, 0, 0)
        call = partial(
            fewstep.tree.attention, rows, k, v, length, ends, out=out, page_table=table, bits=bits,
            workspace=torch.empty(needed // 8, dtype=torch.int64), **(self.scales if int8 else {}),
        )  # fmt: skip

        def run() -> torch.Tensor:
            call()
            return out.view(size.B, size.T, HEADS, DIM).transpose(1, 2)

        return run

    @staticmethod
    def _paged(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        store = torch.empty(len(order), PAGE, *x.shape[2:], dtype=x.dtype)
        store[order] = x.reshape(store.shape)
        return store

    def sdpa(self) -> torch.Tensor:
        """Torch's own grouped heads."""
        return torch.nn.functional.scaled_dot_product_attention(
            self.q, self.k, self.v, attn_mask=self.mask, enable_gqa=True
        )

    def sdpa_folded(self) -> torch.Tensor:
        """Heads that share keys as rows of one product."""
        out = torch.nn.functional.scaled_dot_product_attention(
            self.grouped, self.k, self.v, attn_mask=self.folded_mask
        )
        return out.view(self.q.shape)

    def eager_folded(self) -> torch.Tensor:
        """The same by two products and a softmax in place."""
        logits = torch.matmul(self.grouped, self.k.transpose(-1, -2)).mul_(1 / math.sqrt(DIM))
        weights = logits.add_(self.folded_mask).softmax(-1)
        return torch.matmul(weights, self.v).view(self.q.shape)

    def flex(self) -> Call:
        """Return the compiled form."""
        first = self.size.L - self.size.T
        return flex(self.q, self.k, self.v, lambda b, h, row, key: key <= row + first)

    def transformers(self) -> torch.Tensor:
        """What transformers calls: heads expanded by `repeat_kv`, a mask of four dimensions."""
        shape = (self.size.B, HEADS, self.size.L, DIM)
        k, v = (
            x[:, :, None].expand(-1, -1, self.size.GQA, -1, -1).reshape(shape)
            for x in (self.k, self.v)
        )
        return torch.nn.functional.scaled_dot_product_attention(
            self.q, k, v, attn_mask=self.mask[None, None]
        )


def _quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what int8 with a scale per token leaves of x [B, G, L, D], these, and the scales."""
    scale = x.float().abs().amax(-1) / 127
    data = (x / scale[..., None]).round().to(torch.int8)
    return (data * scale[..., None]).to(x.dtype), data, scale.transpose(1, 2).contiguous()


@lru_cache(maxsize=8)
def gemm_flops(threads: int, dtype: str) -> float:
    """Measure the operations per second of a large product."""
    set_threads(threads)
    a = torch.randn(GEMM, GEMM).to(DTYPES[dtype])
    times = interleaved({"gemm": Timed(lambda: torch.mm(a, a))}, 1.0)
    return 2.0 * GEMM**3 / (1e-6 * times["gemm"].median_us)


def measured(size: Size, threads: int) -> Iterator[Row]:
    """Check all forms against each other, time them turn by turn, and yield the rows."""
    set_threads(threads)
    problem = Problem(size)
    ours = problem.ours()
    forms: dict[str, Call] = {
        "torch sdpa": problem.sdpa,
        "torch sdpa folded": problem.sdpa_folded,
        "torch eager folded": problem.eager_folded,
    }
    if size.B * size.L * HEADS <= SHARED_ROWS // 2:
        forms["transformers"] = problem.transformers
    reason = ""
    if size.is_compiled:
        forms["torch flex"] = problem.flex()
        try:
            forms["torch flex"]()
        except Exception as refusal:  # of any kind: what a compiler may say
            del forms["torch flex"]
            reason = f"not compiled: {str(refusal).strip().splitlines()[0]}"
    result, worst = ours(), 0.0
    for name, call in forms.items():
        error = difference(result, call())
        worst = max(worst, check(f"attention, {name}", error, TOLERANCE[size.dtype]))
    timed = {name: Timed(call) for name, call in {"ours": ours, **forms}.items()}
    times = interleaved(timed | {"read": Timed(reader(problem.k, problem.v, threads))}, BUDGET_S)
    head = {
        "op": "tree.attention", "case": size.case, "T": size.T, "L": size.L, "B": size.B,
        "GQA": size.GQA, "dtype": size.dtype, "threads": threads,
    }  # fmt: skip
    best = min(forms, key=lambda name: times[name].median_us)
    for name, form in (("torch best", best), *((each, each) for each in forms)):
        row = timed_row(head, name, times["ours"], times[form])
        row |= {"difference": float(f"{worst:.1e}")}
        if name == "torch best":
            row["form"] = form
        yield _with_bar(row, size, "ratio")
    if reason:
        yield unmeasured_row(head, "torch flex", reason, times["ours"])
    yield limited(head, size, times["ours"], times["read"])
    if size.T >= 16:
        seconds = size.flops / gemm_flops(threads, size.dtype)
        yield limit_row(head, size, "gemm", times["ours"].median_us, 1e6 * seconds)


def limited(head: Row, size: Size, ours: Any, read: Any) -> Row:
    """Return the share of the bandwidth that plain reading of keys and values has."""
    return limit_row(head, size, "read bandwidth", ours.median_us, read.median_us)


def limit_row(head: Row, size: Size, limit: str, ours_us: float, limit_us: float) -> Row:
    """Return the row of a limit: its time as the rival's, and what share of its speed we have."""
    row: Row = {
        **head, "rival": limit, "limit": limit, "ours_us": round(ours_us, 3),
        "rival_us": round(limit_us, 3), "ratio": round(limit_us / ours_us, 3),
        "share": round(limit_us / ours_us, 3),
    }  # fmt: skip
    return _with_bar(row, size, "share")


def _with_bar(row: Row, size: Size, key: str) -> Row:
    bar = bar_of(size, row["rival"])
    if bar:
        add_bar(row, bar, key)
    return row


def rows(options: Options, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure every size with every number of threads."""
    if not options.wants("attention"):
        return
    for threads in options.threads:
        for size in sizes(options.quick):
            progress(f"attention T={size.T} L={size.L} B={size.B} {size.dtype}, {threads} threads")
            yield from measured(size, threads)
