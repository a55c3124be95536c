# SPDX-License-Identifier: Apache-2.0
"""``tree.attention`` on a GPU: trees of 64 nodes and single rows, 32 heads on 8 of the cache.

Of an int8 cache rivals read what it stands for in bfloat16, and so do we once more.
Calls take other tensors each time, several times the device's cache together, so that none finds
its keys there. Each is a captured graph, on all sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ...bandwidth import copies, copy_row
from ...cases import ATTENTION_BARS
from ...ceilings import product, product_row
from ...rivals import flashinfer
from ...rivals.flex import flex
from ...rows import (
    Options,
    Row,
    add_bar,
    check,
    difference,
    reason_of,
    timed_row,
    unmeasured_row,
)
from ...target import Target
from ...timing import Timed, Timing, interleaved, rotated
from ..attention import PAGE, TOLERANCE, Call, Problem, Size
from ..verification import NODES

BUDGET_S = 1.0
WIDE = "ours of a bfloat16 cache"
SIZES = tuple(Size(NODES, n, b, tree=True) for n in (4096, 32768) for b in (1, 16))
SINGLE = Size(1, 32768, 16)
INT8 = tuple(replace(size, int8=True) for size in (SIZES[-1], SINGLE))
QUICK = (Size(NODES, 512, 2, tree=True), Size(1, 512, 2), Size(1, 512, 2, int8=True))


def rows(options: Options, progress: Callable[[str], None], target: Target) -> Iterator[Row]:
    """Measure what was asked for."""
    if not options.wants("attention"):
        return
    for size in QUICK if options.quick else (*SIZES, SINGLE, *INT8):
        progress(f"tree.attention, T={size.T} L={size.L} B={size.B}")
        yield from _measured(size, target)


def _measured(size: Size, target: Target) -> Iterator[Row]:
    with target.device:
        problems = [Problem(size) for _ in range(target.sets(int(size.bytes)))]
        ours = [target.capture(problem.ours()) for problem in problems]
        result = problems[0].ours()()
    forms: dict[str, list[Call]] = {
        "torch sdpa": [problem.sdpa for problem in problems],
        "torch eager folded": [problem.eager_folded for problem in problems],
    }
    head: Row = {
        "op": "tree.attention", "case": size.case, "T": size.T, "L": size.L, "B": size.B,
        "GQA": size.GQA, "dtype": size.dtype, **target.labels,
    }  # fmt: skip
    missing: list[Row] = []
    for name, made in (("flashinfer", _flashinfer), ("torch flex", _flex)):
        try:
            calls = [made(problem) for problem in problems]
            difference(result, calls[0]())
        except Exception as refusal:  # of any kind: what an import, a compiler or a kernel may say
            missing.append(unmeasured_row(head, name, reason_of(refusal)))
        else:
            forms[name] = calls
    worst = 0.0
    for name, calls in forms.items():
        error = difference(result, calls[0]())
        worst = max(worst, check(f"attention, {name}", error, TOLERANCE[size.dtype]))
    replayed = {name: [target.capture(call) for call in calls] for name, calls in forms.items()}
    timed = {"ours": Timed(rotated(ours))}
    timed |= {name: Timed(rotated(calls)) for name, calls in replayed.items()}
    if size.int8:
        with target.device:
            wide = [problem.ours(int8=False) for problem in problems]
        check(f"attention, {WIDE}", difference(result, wide[0]()), TOLERANCE[size.dtype])
        timed |= {WIDE: Timed(rotated([target.capture(call) for call in wide]))}
    if size.T >= 16:
        timed |= {"gemm": product(target)}
    times = interleaved(timed | copies(target), BUDGET_S, target.clock)
    best = min(forms, key=lambda name: times[name].median_us)
    for name in forms:
        yield timed_row(head, name, times["ours"], times[name])
    row = timed_row(head, "best", times["ours"], times[best])
    row |= {"form": best, "difference": float(f"{worst:.1e}")}
    # Without FlashInfer there is nothing that the bar was set for.
    if size in SIZES and "flashinfer" in forms:
        add_bar(row, ATTENTION_BARS["best"])
    yield row
    yield from missing
    if size.int8:
        yield timed_row(head, WIDE, times["ours"], times[WIDE])
    yield _copied(size, head, times)
    if "gemm" in times:
        yield _multiplied(size, head, times)


def _flashinfer(problem: Problem) -> Call:
    return flashinfer.attention(problem.q, problem.k, problem.v, problem.seen, PAGE)


def _flex(problem: Problem) -> Call:
    return flex(problem.q, problem.k, problem.v, lambda b, h, row, key: problem.seen[row, key])


def _copied(size: Size, head: Row, times: dict[str, Timing]) -> Row:
    row = copy_row(head, int(size.bytes), times)
    if size == SINGLE:
        add_bar(row, ATTENTION_BARS["copy"], "share")
    return row


def _multiplied(size: Size, head: Row, times: dict[str, Timing]) -> Row:
    row = product_row(head, size.flops, times)
    if size == SIZES[-1]:
        add_bar(row, ATTENTION_BARS["gemm"], "share")
    return row
