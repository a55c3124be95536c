# SPDX-License-Identifier: Apache-2.0
"""Large steps against what the memory gives: a STREAM-style loop, or a copy on the device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from . import cases
from .cases import CASES, ROW, SHAPES
from .engine import Engine
from .rows import DTYPES, Options, Row, add_bar, limit_row, set_threads
from .steps import OUTPUTS, Setting, Sides, add_share, formula_error, row_of, stream_of
from .target import Target
from .timing import Timed, Timing, interleaved, rotated

PLAIN = ("ddim", "dpmpp_2m", "unipc_3", "flow_euler")
COPIES = (64 << 20, 1 << 30)  # bytes of one tensor; the faster one is the limit


def bandwidth(options: Options, target: Target) -> Iterator[Row]:
    """Measure deterministic rows at 64 MiB per tensor and more."""
    if target.is_cuda:
        yield from _against_copies(options, target)
        return
    for name in PLAIN:
        if not options.wants(name):
            continue
        for threads in options.threads:
            setting = Setting(CASES[name], cases.LARGE, "float32", False, threads)
            set_threads(threads)
            engine = Sides(setting).ours
            error = formula_error(engine)
            timed = {"ours": Timed(partial(engine.step, ROW)), **stream_of(engine, threads)}
            times = interleaved(timed, budget_s=1.2)
            best = min(times["stream"], times["stream_bypassing"], key=lambda t: t.median_us)
            moved = engine.bytes_moved(ROW)
            row = row_of(setting, target, "stream", times["ours"], best, moved)
            row["difference"] = float(f"{error:.1e}")
            add_share(row, times)
            add_bar(row, cases.BANDWIDTH_BAR, "share")
            yield row


def engine_of(setting: Setting, target: Target) -> Engine:
    """Return a trajectory with random contents made on the device; it needs no diffusers."""
    shape = SHAPES[setting.n]
    generator = torch.Generator(target.device).manual_seed(1)

    def draw(rows: int, dtype: torch.dtype) -> torch.Tensor:
        values = torch.randn((rows, *shape[1:]), generator=generator, device=target.device)
        return values.to(dtype)

    x = draw(shape[0], torch.float32)
    rows = shape[0] * (2 if setting.guided else 1)
    outputs = [draw(rows, DTYPES[setting.dtype]) for _ in range(OUTPUTS)]
    return Engine(setting.case, cases.nodes(setting.case), x, outputs, setting.guided)


def copy_of(size: int, target: Target) -> Timed:
    """Return a copy on the device of `size` bytes, its tensors taken in turn."""
    pairs = [
        [torch.ones(size // 4, device=target.device) for _ in range(2)]
        for _ in range(target.sets(2 * size))
    ]
    return Timed(rotated([partial(to.copy_, source) for source, to in pairs]))


def copies(target: Target) -> dict[str, Timed]:
    """Return the copies whose faster one is the limit, by the names that `fastest` knows."""
    return {f"copy {size}": copy_of(size, target) for size in COPIES}


def fastest(times: dict[str, Timing]) -> float:
    """Return the rate of the fastest of `copies`, bytes read and written, in GB/s."""
    return max(gb_per_s(2 * size, times[f"copy {size}"]) for size in COPIES)


def ideal(moved: int, rate: float) -> Timing:
    """Return what so many bytes take at a rate in GB/s."""
    us = moved / rate / 1e3
    return Timing(us, us, us)


def copy_row(head: Row, moved: int, times: dict[str, Timing]) -> Row:
    """Return the row of the limit: `moved` bytes in the time of ``ours`` against `copies`."""
    best = fastest(times)
    row = limit_row(head, "copy", times["ours"], ideal(moved, best))
    return row | {"copy_gb_per_s": round(best, 1)}


def gb_per_s(moved: int, timing: Timing) -> float:
    """Return the rate in gigabytes per second."""
    return moved / timing.median_us / 1e3


def _large_settings(options: Options) -> Iterator[Setting]:
    for n in cases.CUDA_LARGE[:1] if options.quick else cases.CUDA_LARGE:
        for name in PLAIN:
            yield Setting(CASES[name], n, "float32", False, max(options.threads))
        yield Setting(CASES["dpmpp_2m"], n, "bfloat16", True, max(options.threads))


def _against_copies(options: Options, target: Target) -> Iterator[Row]:
    """Share of the better of two copies timed in turn with the step; both read and write memory."""
    for setting in _large_settings(options):
        if not options.wants(setting.name):
            continue
        engines = [engine_of(setting, target)]
        error = formula_error(engines[0])
        moved = engines[0].bytes_moved(ROW)
        engines += [engine_of(setting, target) for _ in range(target.sets(moved) - 1)]
        timed = {"ours": Timed(rotated([partial(e.step, ROW) for e in engines]))}
        times = interleaved(timed | copies(target), 1.0, target.clock)
        best = fastest(times)
        row = row_of(setting, target, "copy", times["ours"], ideal(moved, best), moved)
        row |= {"limit": "copy", "copy_gb_per_s": round(best, 1), "cold": True}
        row["share"] = round(gb_per_s(moved, times["ours"]) / best, 3)
        row["difference"] = float(f"{error:.1e}")
        add_bar(row, cases.COPY_BAR, "share")
        yield row
        yield _warm(setting, target, engines[0], moved, best)


def _warm(setting: Setting, target: Target, engine: Engine, moved: int, best: float) -> Row:
    """Return the same step on one set of tensors, part of which the cache still holds."""
    timed = {"ours": Timed(partial(engine.step, ROW))}
    timing = interleaved(timed, 0.2, target.clock)["ours"]
    row = row_of(setting, target, "copy", timing, ideal(moved, best), moved)
    return row | {"limit": "copy", "cold": False, "share": round(gb_per_s(moved, timing) / best, 3)}
