# SPDX-License-Identifier: Apache-2.0
"""Normals against torch.randn into a preallocated tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

import fewstep

from . import cases
from .normals import normals
from .rows import DTYPES, Options, Row, WrongResult, add_bar, check, difference, set_threads
from .rows import timed_row as make_row
from .target import Target
from .timing import Timed, interleaved, rotated

SEED = 7
CHUNK = 1 << 26  # elements compared at a time


def draws(options: Options, target: Target) -> Iterator[Row]:
    """Measure normals; on CUDA after comparing their bits with the CPU's."""
    if not options.wants("normal"):
        return
    if target.is_cuda:
        yield from _on_cuda(options, target)
        return
    wanted = torch.from_numpy(normals(seed=SEED, count=4096))
    for threads in options.threads:
        for dtype, kind in DTYPES.items():
            for n in (65_536,) if options.quick else (65_536, 262_144, 4_838_400):
                set_threads(threads)
                seeds = torch.tensor([SEED])
                out, other = torch.empty((1, n), dtype=kind), torch.empty((1, n), dtype=kind)
                fewstep.noise.normal(seeds, out=out)
                tolerance = {"float32": 1e-6, "bfloat16": 4e-3}[dtype]
                error = check("noise.normal", difference(out[0, :4096], wanted), tolerance)
                times = interleaved(
                    {
                        "ours": Timed(partial(fewstep.noise.normal, seeds, out=out)),
                        "rival": Timed(partial(torch.randn, (1, n), dtype=kind, out=other)),
                    },
                    budget_s=0.3,
                )
                head = _head(n, dtype) | {"threads": threads}
                row = make_row(head, "torch.randn", times["ours"], times["rival"])
                row["gb_per_s"] = round(n * out.element_size() / row["ours_us"] / 1e3, 2)
                row["difference"] = float(f"{error:.1e}")
                if threads == 1 and dtype == "float32":
                    add_bar(row, cases.NORMAL_BAR)
                yield row


def _head(n: int, dtype: str) -> Row:
    return {"op": "noise.normal", "case": "normal", "n": n, "batch": 1, "dtype": dtype}


def _on_cuda(options: Options, target: Target) -> Iterator[Row]:
    sizes = cases.CUDA_NORMALS[:1] if options.quick else cases.CUDA_NORMALS
    for n in sizes:
        for dtype in ("float32", "float16", "bfloat16"):
            kind = getattr(torch, dtype)
            seeds = torch.tensor([SEED], device=target.device)
            size = n * torch.empty(0, dtype=kind).element_size()
            outs, others = (
                [
                    torch.empty((1, n), dtype=kind, device=target.device)
                    for _ in range(target.sets(size))
                ]
                for _ in range(2)
            )
            fewstep.noise.normal(seeds, out=outs[0])
            same = equal_bits(outs[0])
            ours = [partial(fewstep.noise.normal, seeds, out=out) for out in outs]
            theirs = [partial(torch.randn, (1, n), out=out) for out in others]
            times = interleaved(
                {"ours": Timed(rotated(ours)), "rival": Timed(rotated(theirs))}, 0.5, target.clock
            )
            head = _head(n, dtype) | dict(target.labels)
            row = make_row(head, "torch.randn", times["ours"], times["rival"], spread=True)
            row["gb_per_s"] = round(size / times["ours"].median_us / 1e3, 2)
            row |= {"cold": True, "equal_bits": same}
            if n == sizes[-1] and dtype == "float32" and not options.quick:
                add_bar(row, cases.CUDA_NORMAL_BAR)
            yield row


def equal_bits(drawn: torch.Tensor) -> int:
    """Compare drawn normals of one seed with the CPU's, bit by bit.

    Parameters
    ----------
    drawn : torch.Tensor, shape (1, N)
        What ``fewstep.noise.normal`` wrote for `SEED`.

    Returns
    -------
    int
        How many elements were compared, from the first on: all of them where the host has room.

    Raises
    ------
    WrongResult
        They differ.
    """
    count = min(drawn.shape[1], _room() // drawn.element_size())
    wanted = torch.empty((1, count), dtype=drawn.dtype)
    fewstep.noise.normal(torch.tensor([SEED]), out=wanted)
    as_integers = torch.int32 if drawn.element_size() == 4 else torch.int16
    for begin in range(0, count, CHUNK):
        part = slice(begin, min(begin + CHUNK, count))
        got = drawn[0, part].cpu()
        if torch.equal(got.view(as_integers), wanted[0, part].view(as_integers)):
            continue
        differs = got.view(as_integers) != wanted[0, part].view(as_integers)
        first = begin + int(differs.nonzero()[0])
        raise WrongResult(
            f"noise.normal, {drawn.dtype}: element {first} is {float(drawn[0, first])!r}, "
            f"on the CPU {float(wanted[0, first])!r}; {int(differs.sum())} differ in its part"
        )
    return count


def _room() -> int:
    """Return what the host can spare, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024 * 3 // 4
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
