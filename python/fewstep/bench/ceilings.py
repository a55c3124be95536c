# SPDX-License-Identifier: Apache-2.0
"""What the device gives at best: copies from memory to memory, and a matrix product."""

from __future__ import annotations

from functools import partial

import torch

from . import cases
from .bandwidth import copy_of
from .machine import smi
from .rows import Options, Row, limit_row
from .target import Target
from .timing import Timed, Timing, interleaved


def ceilings(options: Options, target: Target) -> list[Row]:
    """Measure both.

    Parameters
    ----------
    options : Options
        ``quick`` measures the smaller copies only.
    target : Target

    Returns
    -------
    list of dict
        ``copy`` rows with ``gb_per_s``, bytes read and written counted; a ``matmul`` row with
        ``tflops`` on random bfloat16 numbers.
    """
    rows = []
    for size in cases.COPIED[:2] if options.quick else cases.COPIED:
        timing = interleaved({"copy": copy_of(size, target)}, 0.3, target.clock)["copy"]
        row = _row("copy", size // 4, "float32", timing, target)
        row["gb_per_s"] = round(2 * size / timing.median_us / 1e3, 1)
        rows.append(row | {"cold": True})
    n = cases.MATMUL
    timing = interleaved({"gemm": product(target)}, 0.5, target.clock)["gemm"]
    row = _row("matmul", n * n, "bfloat16", timing, target)
    row["tflops"] = round(2 * n**3 / timing.median_us / 1e6, 1)
    if target.is_cuda:
        row |= {"sm_clock": smi().get("sm_clock")}  # as the product has left it: not idle
    return [*rows, row]


def product(target: Target) -> Timed:
    """Return a product of random bfloat16 matrices, which gives what the device can multiply."""
    n = cases.MATMUL
    a, b, out = (torch.randn((n, n), device=target.device, dtype=torch.bfloat16) for _ in range(3))
    return Timed(partial(torch.mm, a, b, out=out))


def product_row(head: Row, operations: float, times: dict[str, Timing]) -> Row:
    """Return the row of the limit: so many in the time of ``ours`` against ``gemm``, `product`."""
    us = times["gemm"].median_us * operations / (2.0 * cases.MATMUL**3)
    return limit_row(head, "gemm", times["ours"], Timing(us, us, us))


def _row(case: str, n: int, dtype: str, timing: Timing, target: Target) -> Row:
    return {
        "op": "torch",
        "case": case,
        "n": n,
        "batch": 1,
        "dtype": dtype,
        **target.labels,
        "rival": "torch",
        "ours_us": None,
        "rival_us": round(timing.median_us, 3),
        "ratio": None,
    }
