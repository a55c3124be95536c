# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench solver``: everything that is measured of steps and normals, in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

import fewstep

from .bandwidth import bandwidth
from .ceilings import ceilings
from .draws import draws
from .overhead import host_overhead
from .rivals.diffusers import is_installed
from .rows import Options, Row, unmeasured_row
from .steps import compare, settings
from .target import Target, cpu
from .trajectory import trajectory

Part = Callable[[Options, Target], Iterable[Row]]


def steps(options: Options, target: Target, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure every step that was asked for against diffusers."""
    if not is_installed():
        head: Row = {"op": "solver.step", "case": "steps", "n": 0, "batch": 0, "dtype": "-"}
        yield unmeasured_row(head | target.labels, "diffusers", "diffusers is not installed")
        return
    for setting in settings(options, target):
        progress(f"{setting.name}, {setting.n} elements, {setting.dtype}")
        yield from compare(setting, options, target)


def parts(options: Options, target: Target) -> list[tuple[str, Part | None]]:
    """List what is measured, in order; None stands for the comparison of steps.

    On a GPU what has a bar comes first: time may run out there.
    """
    if target.is_cuda:
        listed: list[tuple[str, Part | None]] = [
            ("ceilings", ceilings),
            ("bandwidth", bandwidth),
            ("trajectory", trajectory),
            ("normals", draws),
            ("launch overhead", host_overhead),
            ("steps", None),
        ]
        return [part for part in listed if part[0] != "ceilings" or not options.only]
    listed = [("host overhead", host_overhead), ("normals", draws), ("steps", None)]
    return listed if options.quick else [*listed, ("bandwidth", bandwidth)]


def run(
    options: Options,
    progress: Callable[[str], None],
    target: Target | None = None,
    keep: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Measure everything that was asked for.

    Parameters
    ----------
    options : Options
    progress : callable
        Called with a line about what is measured next.
    target : Target, optional
        The CPU by default.
    keep : callable, optional
        Called with the rows so far whenever there are more.

    Returns
    -------
    list of dict
        The rows.

    Raises
    ------
    WrongResult
        A result differs from its rival's, the float64 formula's or the CPU's.
    """
    target = target or cpu()
    before = fewstep.get_num_threads(), torch.get_num_threads()
    rows: list[Row] = []
    try:
        with torch.no_grad():
            for name, part in parts(options, target):
                progress(name)
                found = part(options, target) if part else steps(options, target, progress)
                for row in found:
                    rows.append(row)
                    if keep:
                        keep(rows)
    finally:
        fewstep.set_num_threads(before[0])
        torch.set_num_threads(before[1])
    return rows
