# SPDX-License-Identifier: Apache-2.0
"""What a check consists of: sections with a budget, and their outcomes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .process import Finished, run

State = Literal["passed", "failed", "cut", "skipped", "not measured"]
LEAST_S = 10.0  # what a section needs to be worth its start


@dataclass(frozen=True)
class Outcome:
    """How a section ended.

    Attributes
    ----------
    state : str
        ``passed``, ``failed``, ``cut`` (ended at its deadline, what it had is kept), ``skipped``
        or ``not measured``.
    reason : str
        Why it did not simply pass.
    data : mapping
        What it found, for the report.
    seconds : float
    """

    state: State
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_fine(self) -> bool:
        """Whether nothing that ran went wrong."""
        return self.state in ("passed", "skipped", "not measured")


@dataclass(frozen=True)
class Check:
    """What sections work with.

    Attributes
    ----------
    out : Path
        The report's folder; logs go there too.
    source : Path or None
        The checkout, which has the tests.
    quick : bool
    ends : float
        When all must be over, as `time.monotonic` counts.
    """

    out: Path
    source: Path | None
    quick: bool
    ends: float

    def left(self) -> float:
        """Return the seconds that are left in all."""
        return self.ends - time.monotonic()

    def child(
        self,
        name: str,
        command: Sequence[str | Path],
        limit_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run a child in the checkout, or here without one; its output goes to ``<name>.log``."""
        limit = min(limit_s, self.left())
        log = self.out / f"{name}.log"
        folder = self.source or Path.cwd()
        return run(command, limit, log, environment=environment, folder=folder)

    def processes(self, most: int) -> int:
        """Return how many processes to run side by side."""
        return max(1, min(most, len(os.sched_getaffinity(0)) // 2))


@dataclass(frozen=True)
class Section:
    """One part of a check.

    Attributes
    ----------
    name : str
        Short; of its log and its place in the report.
    title : str
    budget_s : float
        What it may take at most; less when less is left.
    run : callable
        Does the work within the seconds that it is given.
    """

    name: str
    title: str
    budget_s: float
    run: Callable[[Check, float], Outcome]


def perform(section: Section, check: Check) -> Outcome:
    """Run a section; nothing that it raises ends the check."""
    limit = min(section.budget_s, check.left())
    if limit < LEAST_S:
        return Outcome("skipped", "no time was left")
    begin = time.monotonic()
    try:
        outcome = section.run(check, limit)
    except Exception as error:
        outcome = Outcome("failed", f"{type(error).__name__}: {error}")
    seconds = round(time.monotonic() - begin, 1)
    return Outcome(outcome.state, outcome.reason, outcome.data, seconds)
