# SPDX-License-Identifier: Apache-2.0
"""The sections in their order, and how they become a report."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .benches import benches
from .facts import facts
from .report import Report
from .sanitizer import memcheck, racecheck
from .section import Check, Outcome, Section, perform
from .suite import cuda_tests, other_tests

# What has to be proved first comes first. The budgets together are more than the time: most
# sections end long before theirs, and the last ones get what is left.
SECTIONS = (
    Section("facts", "machine", 60, facts),
    Section("tests-cuda", "tests on CUDA", 180, cuda_tests),
    Section("bench", "benchmarks", 270, benches),
    Section("memcheck", "compute-sanitizer memcheck", 90, memcheck),
    Section("racecheck", "compute-sanitizer racecheck", 60, racecheck),
    Section("tests-cpu", "other tests", 150, other_tests),
)


def head(source: Path | None, build: str, commit: str | None = None) -> dict[str, Any]:
    """Return what a report says first.

    Parameters
    ----------
    source : Path or None
        The checkout.
    build : str
        How this build came about.
    commit : str, optional
        Its name where git does not know it.
    """
    now = datetime.now(timezone.utc)
    return {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit_of(source) or commit,
        "build": build,
    }


def commit_of(source: Path | None) -> str | None:
    """Return a checkout's commit, with ``-dirty`` when files differ from it."""
    if source is None:
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return result.stdout.strip() or None


def not_measured(report: Report, reason: str) -> None:
    """Write the report of a machine where nothing could run."""
    for section in report.sections:
        report.add(section, Outcome("not measured", reason))


def carry_out(report: Report, check: Check, say: Callable[[str], None]) -> None:
    """Run every section; the report is written after each.

    Parameters
    ----------
    report : Report
    check : Check
    say : callable
        Called with a line about each section, before and after it.
    """
    report.write()
    for section in report.sections:
        say(f"{section.title} ({check.left():.0f} s left)")
        outcome = perform(section, check)
        report.add(section, outcome)
        why = f": {outcome.reason}" if outcome.reason else ""
        say(f"{section.title}: {outcome.state} in {outcome.seconds:g} s{why}")


def seconds_until(ends_at: float) -> float:
    """Return the seconds until a time of the system's clock."""
    return ends_at - time.time()
