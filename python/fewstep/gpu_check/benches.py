# SPDX-License-Identifier: Apache-2.0
"""The benchmark on the GPU, in a child that writes its rows as they come."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .section import Check, Outcome


def benches(check: Check, limit_s: float) -> Outcome:
    """Measure; a wrong result fails, a bar that is missed does not."""
    path = check.out / "bench.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "fewstep", "bench", "solver", "--device", "cuda"]
    command += ["--out", str(path), *(["--quick"] if check.quick else [])]
    child = check.child("bench", command, limit_s)
    found = {"rows": rows_of(path)}
    path.unlink(missing_ok=True)  # the report has them now
    if child.cut:
        return Outcome("cut", f"time was up after {len(found['rows'])} rows", found)
    if child.code != 0:
        return Outcome("failed", f"bench ended with {child.code}: {child.last_lines()}", found)
    if not found["rows"]:
        return Outcome("failed", "bench measured nothing", found)
    return Outcome("passed", "", found)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows that were written; none when there is no file."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows
