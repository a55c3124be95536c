# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench solver``: everything that is measured of steps and normals, in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from .bandwidth import bandwidth
from .ceilings import ceilings
from .draws import draws
from .measure import Part, benchmark
from .motion import motion
from .overhead import host_overhead
from .rivals.diffusers import is_installed
from .rows import Options, Row, unmeasured_row
from .steps import compare, settings
from .target import Target
from .trajectory import trajectory


def steps(options: Options, target: Target) -> Iterator[tuple[str, Part]]:
    """List the comparisons of steps with diffusers."""
    if is_installed():
        for setting in settings(options, target):
            name = f"{setting.name}, {setting.n} elements, {setting.dtype}"
            yield name, partial(compare, setting, options, target)
        return
    head: Row = {"op": "solver.step", "case": "steps", "n": 0, "batch": 0, "dtype": "-"}
    missing = unmeasured_row(head | target.labels, "diffusers", "diffusers is not installed")
    yield "steps", lambda: [missing]


def parts(options: Options, target: Target) -> Iterator[tuple[str, Part]]:
    """List what is measured, in order.

    On a GPU what has a bar comes first: time may run out there.
    """

    def part(function: Callable[[Options, Target], Iterable[Row]]) -> Part:
        return partial(function, options, target)

    if target.is_cuda:
        if not options.only:
            yield "ceilings", part(ceilings)
        yield "bandwidth", part(bandwidth)
        yield "trajectory", part(trajectory)
        yield "normals", part(draws)
        yield "Brownian increments", part(motion)
        yield "launch overhead", part(host_overhead)
        yield from steps(options, target)
        return
    yield "host overhead", part(host_overhead)
    yield "normals", part(draws)
    yield "Brownian increments", part(motion)
    yield from steps(options, target)
    if not options.quick:
        yield "bandwidth", part(bandwidth)


run = benchmark(parts)
