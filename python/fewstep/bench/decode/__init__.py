# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench decode``: draft trees, tokens and the KV cache against torch and transformers.

A section is a module with ``NAMES``, the cases that ``--case`` may name, and ``rows``, which
measures those that the options want: both sides compute the same, are checked against each other
first, and are then timed turn by turn. A row has the keys that `fewstep.bench.rows.timed_row`
gives, its op (``tree.attention``), its case, and its sizes by the letters of CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..measure import Keep, measure
from ..rows import Options, Row
from ..target import Target, cpu
from . import attention, cache, device, processors, sampling, trees, verification
from ._table import table as table


def sections() -> tuple[Any, ...]:
    """Return the modules that measure, in the order of the output."""
    return attention, cache, sampling, processors, trees, verification


def names() -> tuple[str, ...]:
    """Return what ``--case`` may name."""
    return tuple(name for section in sections() for name in section.NAMES)


def run(
    options: Options,
    progress: Callable[[str], None],
    target: Target | None = None,
    keep: Keep | None = None,
) -> list[Row]:
    """Measure everything that was asked for.

    Parameters
    ----------
    options : Options
        ``quick`` measures the smallest sizes only.
    progress : callable
        Called with a line about what is measured next.
    target : Target, optional
        The CPU when left out. On CUDA those ops are measured that have kernels there.
    keep : callable, optional
        Called with the rows so far whenever there are more.

    Returns
    -------
    list of dict

    Raises
    ------
    WrongResult
        A result differs from its rival's.
    """
    target = target or cpu()
    parts = [(_title(s), partial(s.rows, options, progress)) for s in sections()]
    if target.is_cuda:
        parts = [(_title(s), partial(s.rows, options, progress, target)) for s in device.sections()]
    return measure(parts, progress, target, keep)


def _title(section: Any) -> str:
    return str(section.__name__).rpartition(".")[2]
