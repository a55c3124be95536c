# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench solver``: steps, normals and host overhead against their rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

import fewstep

from . import cases
from .cases import BARS, CASES, ROW, SHAPES, Case
from .engine import Engine, coefficients_of, formula
from .normals import normals
from .rivals.compiled import Compiled
from .rivals.diffusers import Scheduler
from .rivals.stream import Stream
from .timing import Timed, interleaved

Row = dict[str, Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OUTPUTS = 3  # distinct model outputs, taken in turn
# A step of a public scheduler has float32 coefficients; in bfloat16 it rounds its sample as well.
TOLERANCE = {"float32": 2e-5, "bfloat16": 6e-2}
FORMULA_TOLERANCE = {"float32": 2e-6, "bfloat16": 8e-3}
STREAM_FROM = 4_838_400  # elements; below it everything is in the caches


class WrongResult(RuntimeError):
    """A result differs from what it is checked against: there is nothing to time."""


@dataclass(frozen=True)
class Options:
    """What to measure: thread counts, cases by name (all when empty), and how thoroughly."""

    threads: tuple[int, ...]
    only: tuple[str, ...] = ()
    quick: bool = False

    def wants(self, name: str) -> bool:
        """Whether a case was asked for."""
        return not self.only or name in self.only


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


def set_threads(threads: int) -> None:
    """Give fewstep and torch the same number of threads."""
    fewstep.set_num_threads(threads)
    torch.set_num_threads(threads)


def difference(ours: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    wanted = other.double()
    return float((ours.double() - wanted).abs().max() / wanted.abs().max())


def check(what: str, error: float, tolerance: float) -> float:
    """Return `error`, or refuse to time a wrong result."""
    if not error <= tolerance:
        raise WrongResult(f"{what}: differs by {error:.2e}, allowed is {tolerance:.0e}")
    return error


class Sides:
    """fewstep and diffusers on the same trajectory."""

    def __init__(self, setting: Setting) -> None:
        case, shape = setting.case, SHAPES[setting.n]
        dtype = DTYPES[setting.dtype]
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(shape, generator=generator)
        batch = shape[0] * (2 if setting.guided else 1)
        outputs = [
            torch.randn((batch, *shape[1:]), generator=generator).to(dtype) for _ in range(OUTPUTS)
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


def settings(options: Options) -> Iterator[Setting]:
    """List what is compared with diffusers.

    Every case, size, type and guidance at the largest thread count; plain float32 and what has a
    bar at the others too.
    """
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


def row_of(setting: Setting, rival: str, ours_us: float, rival_us: float, moved: int) -> Row:
    """Return one row of the output."""
    row: Row = {
        "op": "solver.step",
        "case": setting.name,
        "n": setting.n,
        "batch": SHAPES[setting.n][0],
        "dtype": setting.dtype,
        "threads": setting.threads,
        "rival": rival,
        "ours_us": round(ours_us, 3),
        "rival_us": round(rival_us, 3),
        "ratio": round(rival_us / ours_us, 3),
        "gb_per_s": round(moved / ours_us / 1e3, 2),
    }
    for bar in BARS:
        key = (bar.case, bar.n, bar.dtype, bar.rival)
        if key == (setting.name, setting.n, setting.dtype, rival):
            row["bar"] = bar.least
            row["met"] = row["ratio"] >= bar.least
    return row


def compare(setting: Setting, options: Options) -> list[Row]:
    """Measure one setting against diffusers, and where asked against the compiled formula."""
    set_threads(setting.threads)
    sides = Sides(setting)
    errors = {"diffusers": sides.checked()}
    timed: dict[str, Timed] = {}
    if is_compiled(setting) and not options.quick:
        compiled, errors["torch.compile"] = compiled_rival(sides)
        timed["torch.compile"] = Timed(
            compiled.timed, reset=lambda: compiled.load(sides.ours.slots)
        )
    reset = sides.stand_before()
    timed["ours"] = Timed(partial(sides.ours.step, ROW), reset)
    timed["diffusers"] = Timed(sides.rival.timed)
    if has_stream(setting):
        timed.update(stream_of(sides.ours, setting.threads))
    microseconds = interleaved(timed, budget_s=0.15 if setting.n < 10**6 else 0.6)
    moved = sides.ours.bytes_moved(ROW)
    rows = []
    for rival, error in errors.items():
        row = row_of(setting, rival, microseconds["ours"], microseconds[rival], moved)
        row["difference"] = float(f"{error:.1e}")
        add_share(row, microseconds)
        rows.append(row)
    return rows


def has_stream(setting: Setting) -> bool:
    """Whether the bandwidth limit applies: from memory, one type, no noise to make."""
    plain = setting.dtype == "float32" and not setting.guided and not setting.case.stochastic
    return plain and setting.n >= STREAM_FROM


def stream_of(engine: Engine, threads: int) -> dict[str, Timed]:
    """Return the loop over the same arrays, with both kinds of store."""
    loop = Stream(*engine.tensors(ROW), threads)
    return {"stream": Timed(loop.timed), "stream_bypassing": Timed(loop.timed_bypassing)}


def add_share(row: Row, microseconds: dict[str, float]) -> None:
    """Note the share of the bandwidth that the faster loop reached beside it."""
    if "stream" not in microseconds:
        return
    limit = min(microseconds["stream"], microseconds["stream_bypassing"])
    row["limit"] = "stream"
    row["share"] = round(limit / row["ours_us"], 3)


def bandwidth(options: Options) -> Iterator[Row]:
    """Measure deterministic rows at 64 MiB per tensor against the STREAM-style loop."""
    for name in ("ddim", "dpmpp_2m", "unipc_3", "flow_euler"):
        if not options.wants(name):
            continue
        for threads in options.threads:
            setting = Setting(CASES[name], cases.LARGE, "float32", False, threads)
            set_threads(threads)
            sides = Sides(setting)
            engine = sides.ours
            error = formula_error(engine)
            timed = {"ours": Timed(partial(engine.step, ROW)), **stream_of(engine, threads)}
            microseconds = interleaved(timed, budget_s=1.2)
            best = min(microseconds["stream"], microseconds["stream_bypassing"])
            row = row_of(setting, "stream", microseconds["ours"], best, engine.bytes_moved(ROW))
            row["difference"] = float(f"{error:.1e}")
            add_share(row, microseconds)
            row["bar"] = cases.BANDWIDTH_BAR
            row["met"] = row["share"] >= cases.BANDWIDTH_BAR
            yield row


def formula_error(engine: Engine) -> float:
    """Take the timed step and compare it with the float64 formula on part of the elements."""
    engine.run(ROW)
    every = max(1, engine.first.numel() // 10**6)
    part = [slot.flatten()[::every].double() for slot in engine.slots]
    output = engine.outputs[ROW % len(engine.outputs)].flatten()[::every].double()
    function = formula(engine.plan, ROW)
    function(coefficients_of(engine.plan, ROW, torch.float64), part, [output], None)
    engine.step(ROW)
    got = engine.slots[0].flatten()[::every]
    return check("float64 formula", difference(got, part[0]), FORMULA_TOLERANCE["float32"])


def noise(options: Options) -> Iterator[Row]:
    """Measure normals against torch.randn into a preallocated tensor."""
    if not options.wants("normal"):
        return
    wanted = torch.from_numpy(normals(seed=7, count=4096))
    for threads in options.threads:
        for dtype, kind in DTYPES.items():
            for n in (65_536,) if options.quick else (65_536, 262_144, 4_838_400):
                set_threads(threads)
                seeds = torch.tensor([7])
                out, other = torch.empty((1, n), dtype=kind), torch.empty((1, n), dtype=kind)
                fewstep.noise.normal(seeds, out=out)
                tolerance = {"float32": 1e-6, "bfloat16": 4e-3}[dtype]
                error = check("noise.normal", difference(out[0, :4096], wanted), tolerance)
                microseconds = interleaved(
                    {
                        "ours": Timed(partial(fewstep.noise.normal, seeds, out=out)),
                        "rival": Timed(partial(torch.randn, (1, n), dtype=kind, out=other)),
                    },
                    budget_s=0.3,
                )
                setting = Setting(CASES["ddim"], 256, dtype, False, threads)
                moved = n * out.element_size()
                row = row_of(
                    setting, "torch.randn", microseconds["ours"], microseconds["rival"], moved
                )
                row.update(op="noise.normal", case="normal", n=n, batch=1)
                row.pop("bar", None)
                row.pop("met", None)
                row["difference"] = float(f"{error:.1e}")
                if threads == 1 and dtype == "float32":
                    row["bar"] = cases.NORMAL_BAR
                    row["met"] = row["ratio"] >= cases.NORMAL_BAR
                yield row


def host_overhead(options: Options) -> Iterator[Row]:
    """Measure what a call costs besides the work: 16 elements, everything preallocated."""
    if not options.wants("host_overhead"):
        return
    set_threads(1)
    x = torch.randn(1, 16)
    y, out = torch.randn(1, 16), torch.empty(1, 16)
    sigmas = np.geomspace(20.0, 0.05, cases.STEPS + 1).tolist()
    engine = Engine(CASES["dpmpp_2m"], sigmas, x, [torch.randn(1, 16)], guided=False)
    error = formula_error(engine)
    as_list = [slot.clone() for slot in engine.slots]
    step, plan, state, output = fewstep.solver.step, engine.plan, engine.state, engine.outputs[0]
    states: dict[str, Sequence[torch.Tensor] | torch.Tensor] = {"tensor": state, "list": as_list}
    for kind, value in states.items():
        microseconds = interleaved(
            {
                "ours": Timed(partial(step, plan, ROW, value, output), state.zero_),
                "rival": Timed(partial(torch.add, x, y, out=out)),
            },
            budget_s=1.0,
        )
        row: Row = {
            "op": "solver.step",
            "case": "host_overhead",
            "n": 16,
            "batch": 1,
            "dtype": "float32",
            "threads": 1,
            "state": kind,
            "rival": "torch.add(out=)",
            "ours_us": round(microseconds["ours"], 3),
            "rival_us": round(microseconds["rival"], 3),
            "ratio": round(microseconds["rival"] / microseconds["ours"], 3),
            "difference": float(f"{error:.1e}"),
        }
        if kind == "tensor":
            row["bar"] = cases.HOST_BAR_US
            row["met"] = row["ours_us"] <= cases.HOST_BAR_US
        yield row


def run(options: Options, progress: Callable[[str], None]) -> list[Row]:
    """Measure everything that was asked for.

    Parameters
    ----------
    options : Options
    progress : callable
        Called with a line about what is measured next.

    Returns
    -------
    list of dict
        The rows.

    Raises
    ------
    WrongResult
        A result differs from its rival's or the float64 formula's.
    """
    before = fewstep.get_num_threads(), torch.get_num_threads()
    rows: list[Row] = []
    try:
        with torch.no_grad():
            progress("host overhead")
            rows.extend(host_overhead(options))
            progress("normals")
            rows.extend(noise(options))
            for setting in settings(options):
                progress(f"{setting.name}, {setting.n} elements, {setting.dtype}")
                rows.extend(compare(setting, options))
            if not options.quick:
                progress("bandwidth")
                rows.extend(bandwidth(options))
    finally:
        fewstep.set_num_threads(before[0])
        torch.set_num_threads(before[1])
    return rows
