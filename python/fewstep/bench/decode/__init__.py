# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench decode``: draft trees, tokens and the KV cache against torch and transformers.

A section is a module with ``NAMES``, the cases that ``--case`` may name, and ``rows``, which
measures those that the options want: both sides compute the same, are checked against each other
first, and are then timed turn by turn. A row has the keys that `fewstep.bench.rows.timed_row`
gives, its op (``tree.attention``), its case, and its sizes by the letters of CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import fewstep

from ..rows import Options, Row

SIZES = ("T", "L", "V", "B", "K", "Q", "GQA")  # keys of a row that are sizes


def sections() -> tuple[Any, ...]:
    """Return the modules that measure, in the order of the output."""
    return ()


def names() -> tuple[str, ...]:
    """Return what ``--case`` may name."""
    return tuple(name for section in sections() for name in section.NAMES)


def run(
    options: Options,
    progress: Callable[[str], None],
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Measure everything that was asked for.

    Parameters
    ----------
    options : Options
        ``quick`` measures the smallest sizes only.
    progress : callable
        Called with a line about what is measured next.
    keep : callable, optional
        Called with all rows so far after each new one.

    Returns
    -------
    list of dict

    Raises
    ------
    WrongResult
        A result differs from its rival's.
    """
    before = fewstep.get_num_threads(), torch.get_num_threads()
    rows: list[Row] = []
    try:
        with torch.no_grad():
            for section in sections():
                for row in section.rows(options, progress):
                    rows.append(row)
                    keep(rows)
    finally:
        fewstep.set_num_threads(before[0])
        torch.set_num_threads(before[1])
    return rows
