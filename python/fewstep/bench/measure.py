# SPDX-License-Identifier: Apache-2.0
"""What every benchmark does with its parts: measure them in order, keep rows as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch

import fewstep

from .rows import Options, Row, unmeasured_row
from .target import Target, cpu

Part = Callable[[], Iterable[Row]]
Keep = Callable[[list[Row]], None]


def measure(
    parts: Iterable[tuple[str, Part]],
    progress: Callable[[str], None],
    target: Target,
    keep: Keep | None = None,
) -> list[Row]:
    """Measure parts in their order.

    Parameters
    ----------
    parts : iterable of (str, callable)
        What is measured next, and what measures it.
    progress : callable
        Called with a line about what is measured next.
    target : Target
    keep : callable, optional
        Called with the rows so far whenever there are more.

    Returns
    -------
    list of dict
        The rows.

    Raises
    ------
    WrongResult
        On the CPU: a result differs from its rival's or the float64 formula's. On a GPU, whose time
        is dear, what went wrong becomes a row with ``failed``, and the other parts are measured.
    """
    before = fewstep.get_num_threads(), torch.get_num_threads()
    rows: list[Row] = []
    try:
        with torch.no_grad():
            for name, part in parts:
                progress(name)
                for row in _kept_going(name, part, target) if target.is_cuda else part():
                    rows.append(row)
                    if keep:
                        keep(rows)
    finally:
        fewstep.set_num_threads(before[0])
        torch.set_num_threads(before[1])
    return rows


class Run(Protocol):
    """A benchmark, as the command line and its tests call it."""

    def __call__(
        self,
        options: Options,
        progress: Callable[[str], None],
        target: Target | None = None,
        keep: Keep | None = None,
    ) -> list[Row]:
        """Measure everything that was asked for; see `measure`. On the CPU without a `target`."""


def benchmark(parts_of: Callable[[Options, Target], Iterable[tuple[str, Part]]]) -> Run:
    """Return the benchmark that measures the parts which `parts_of` lists."""

    def run(
        options: Options,
        progress: Callable[[str], None],
        target: Target | None = None,
        keep: Keep | None = None,
    ) -> list[Row]:
        target = target or cpu()
        return measure(parts_of(options, target), progress, target, keep)

    return run


def _kept_going(name: str, part: Part, target: Target) -> Iterator[Row]:
    try:
        yield from part()
    except Exception as error:
        head: Row = {"op": "failed", "case": name, "n": 0, "batch": 0, "dtype": "-"}
        reason = f"{type(error).__name__}: {error}"
        yield unmeasured_row(head | target.labels, "", reason) | {"failed": True}
