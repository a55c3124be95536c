# SPDX-License-Identifier: Apache-2.0
"""One step in the middle of a trajectory: fewstep, diffusers and the compiled formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from . import cases
from .cases import BARS, CASES, ROW, SHAPES, Case
from .engine import Engine, coefficients_of, formula
from .rivals.compiled import Compiled
from .rivals.diffusers import Scheduler
from .rivals.stream import Stream
from .rows import (
    DTYPES,
    FORMULA_TOLERANCE,
    TOLERANCE,
    Options,
    Row,
    add_bar,
    check,
    difference,
    set_threads,
    timed_row,
)
from .target import Call, Target, cpu
from .timing import Timed, Timing, interleaved, rotated

OUTPUTS = 3  # distinct model outputs, taken in turn
STREAM_FROM = 4_838_400  # elements; below it everything is in the caches


@dataclass(frozen=True)
class Setting:
    """One measurement: a case at a size, type and thread count."""

    case: Case
    n: int
    dtype: str
    guided: bool
    threads: int

    @property
    def name(self) -> str:
        """The case's name in the rows."""
        return self.case.name + ("_cfg" if self.guided else "")


class Sides:
    """fewstep and diffusers on the same trajectory."""

    def __init__(self, setting: Setting, target: Target | None = None) -> None:
        case, shape = setting.case, SHAPES[setting.n]
        dtype = DTYPES[setting.dtype]
        device = (target or cpu()).device
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(shape, generator=generator).to(device)
        batch = shape[0] * (2 if setting.guided else 1)
        outputs = [
            torch.randn((batch, *shape[1:]), generator=generator).to(device, dtype)
            for _ in range(OUTPUTS)
        ]
        self.setting = setting
        self.rival = Scheduler(case, x.to(dtype), outputs, setting.guided)
        self.ours = Engine(case, self.rival.sigmas(), x, outputs, setting.guided)

    def checked(self) -> float:
        """Compare the trajectories up to the timed step; return the difference."""
        noise = self.ours.noise if self.setting.case.stochastic else None
        wanted = self.rival.run(ROW + 1, noise)
        got = self.ours.run(ROW + 1)
        what = f"{self.setting.name}, n = {self.setting.n}, {self.setting.dtype}, diffusers"
        return check(what, difference(got, wanted), TOLERANCE[self.setting.dtype])

    def stand_before(self) -> Callable[[], object]:
        """Place both before the timed step; return what puts fewstep back there."""
        self.rival.prepare()
        before = self.ours.run(ROW).clone()
        return partial(self.ours.slots[0].copy_, before)


def settings(options: Options, target: Target) -> Iterator[Setting]:
    """List what is compared with diffusers.

    On the CPU every case, size, type and guidance at the largest thread count; plain float32 and
    what has a bar at the others too. On CUDA plain float32 and guided bfloat16.
    """
    if target.is_cuda:
        yield from _cuda_settings(options)
        return
    sizes = (256, 65_536) if options.quick else cases.COMPARED
    bars = {(bar.case, bar.n, bar.dtype) for bar in BARS}
    for case in CASES.values():
        for guided in (False, True):
            for dtype in DTYPES:
                for n in sizes:
                    for threads in options.threads:
                        setting = Setting(case, n, dtype, guided, threads)
                        plain = dtype == "float32" and not guided
                        extra = plain or (setting.name, n, dtype) in bars
                        if options.quick and not plain:
                            continue
                        if options.wants(setting.name) and (
                            extra or threads == max(options.threads)
                        ):
                            yield setting


def _cuda_settings(options: Options) -> Iterator[Setting]:
    sizes = cases.CUDA_COMPARED[:1] if options.quick else cases.CUDA_COMPARED
    for case in CASES.values():
        for guided, dtype in ((False, "float32"), (True, "bfloat16")):
            for n in sizes:
                setting = Setting(case, n, dtype, guided, max(options.threads))
                if options.wants(setting.name) and not (options.quick and guided):
                    yield setting


def is_compiled(setting: Setting) -> bool:
    """Whether the compiled formula is measured too: each takes seconds to compile."""
    if setting.name == "dpmpp_2m" and setting.dtype == "float32":
        return setting.n in (256, 65_536, 4_838_400)
    if setting.n != 4_838_400:
        return False
    return (setting.name, setting.dtype) in (("unipc_3", "float32"), ("dpmpp_2m_cfg", "bfloat16"))


def compiled_rival(sides: Sides) -> tuple[Compiled, float]:
    """Compile the timed step and check it against ours, from one state."""
    torch._dynamo.reset()
    engine = sides.ours
    rival = Compiled(engine)
    engine.run(ROW)
    rival.load(engine.slots)
    rival.timed()
    engine.step(ROW)
    dtype = sides.setting.dtype
    what = f"{sides.setting.name}, n = {sides.setting.n}, {dtype}, torch.compile"
    error = check(what, difference(engine.slots[0], rival.slots[0]), FORMULA_TOLERANCE["float32"])
    if engine.model_input is not None and rival.model_input is not None:
        inputs = difference(engine.model_input, rival.model_input)
        error = check(what, max(error, inputs), FORMULA_TOLERANCE[dtype])
    return rival, error


def head_of(setting: Setting, target: Target) -> Row:
    """Return what a row says of its setting; the device in place of threads where it counts."""
    head: Row = {
        "op": "solver.step",
        "case": setting.name,
        "n": setting.n,
        "batch": SHAPES[setting.n][0],
        "dtype": setting.dtype,
    }
    return head | (target.labels or {"threads": setting.threads})


def row_of(
    setting: Setting, target: Target, rival: str, ours: Timing, other: Timing, moved: int
) -> Row:
    """Return one row of the output."""
    row = timed_row(head_of(setting, target), rival, ours, other, spread=target.is_cuda)
    row["gb_per_s"] = round(moved / ours.median_us / 1e3, 2)
    for bar in BARS if not target.is_cuda else ():
        key = (bar.case, bar.n, bar.dtype, bar.rival)
        if key == (setting.name, setting.n, setting.dtype, rival):
            add_bar(row, bar.least)
    return row


def compare(setting: Setting, options: Options, target: Target) -> list[Row]:
    """Measure one setting against diffusers, and where asked against the compiled formula."""
    set_threads(setting.threads)
    sides = [Sides(setting, target)]
    errors = {"diffusers": sides[0].checked()}
    moved = sides[0].ours.bytes_moved(ROW)
    # What fits the caches is there when a trajectory takes its step, so it is timed warm.
    count = target.sets(moved) if setting.n >= STREAM_FROM else 1
    sides += [Sides(setting, target) for _ in range(count - 1)]
    timed: dict[str, Timed] = {}
    if is_compiled(setting) and not options.quick:
        compiled, errors["torch.compile"] = compiled_rival(sides[0])
        timed["torch.compile"] = _timed_compiled(compiled, sides)
    resets = [side.stand_before() for side in sides]
    timed["ours"] = Timed(rotated([partial(s.ours.step, ROW) for s in sides]), _all(resets))
    timed["diffusers"] = Timed(rotated([s.rival.timed for s in sides]))
    if has_stream(setting, target):
        timed.update(stream_of(sides[0].ours, setting.threads))
    times = interleaved(timed, 0.15 if setting.n < 10**6 else 0.6, target.clock)
    rows = []
    for rival, error in errors.items():
        row = row_of(setting, target, rival, times["ours"], times[rival], moved)
        row["difference"] = float(f"{error:.1e}")
        add_share(row, times)
        if target.is_cuda:
            row["cold"] = count > 1
        rows.append(row)
    return rows


def _timed_compiled(compiled: Compiled, sides: Sequence[Sides]) -> Timed:
    every = [compiled, *(compiled.on(side.ours) for side in sides[1:])]
    loads = [partial(c.load, side.ours.slots) for c, side in zip(every, sides, strict=True)]
    return Timed(rotated([c.timed for c in every]), _all(loads))


def _all(calls: Sequence[Call]) -> Call:
    def call() -> None:
        for each in calls:
            each()

    return call


def has_stream(setting: Setting, target: Target) -> bool:
    """Whether the STREAM loop's limit applies: from memory, one type, no noise to make."""
    plain = setting.dtype == "float32" and not setting.guided and not setting.case.stochastic
    return plain and setting.n >= STREAM_FROM and not target.is_cuda


def stream_of(engine: Engine, threads: int) -> dict[str, Timed]:
    """Return the loop over the same arrays, with both kinds of store."""
    loop = Stream(*engine.tensors(ROW), threads)
    return {"stream": Timed(loop.timed), "stream_bypassing": Timed(loop.timed_bypassing)}


def add_share(row: Row, times: dict[str, Timing]) -> None:
    """Note the share of the bandwidth that the faster loop reached beside it."""
    if "stream" not in times:
        return
    limit = min(times["stream"].median_us, times["stream_bypassing"].median_us)
    row["limit"] = "stream"
    row["share"] = round(limit / row["ours_us"], 3)


def formula_error(engine: Engine) -> float:
    """Take the timed step and compare it with the float64 formula on part of the elements."""
    engine.run(ROW)
    every = max(1, engine.first.numel() // 10**6)
    part = [slot.flatten()[::every].double() for slot in engine.slots]
    output = engine.outputs[ROW % len(engine.outputs)]
    guidance = max(len(engine.plan.rows[ROW].gamma), 1)
    outputs = [half.flatten()[::every].double() for half in output.chunk(guidance)]
    function = formula(engine.plan, ROW)
    function(coefficients_of(engine.plan, ROW, torch.float64), part, outputs, None)
    engine.step(ROW)
    got = engine.slots[0].flatten()[::every]
    return check("float64 formula", difference(got, part[0]), FORMULA_TOLERANCE["float32"])
