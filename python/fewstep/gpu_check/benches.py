# SPDX-License-Identifier: Apache-2.0
"""The benchmarks on the GPU, each in a child that writes its rows as they come."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from .section import LEAST_S, Check, Outcome

# What has a bar of the report first: time may run out. Seconds are what one may take at most.
BENCHMARKS = {"solver": 210.0, "generate": 60.0, "guidance": 210.0, "decode": 210.0, "linear": 60.0}


def benches(check: Check, limit_s: float) -> Outcome:
    """Measure; a wrong result fails, a bar that is missed does not."""
    ends = time.monotonic() + limit_s
    rows: list[dict[str, Any]] = []
    worst = Outcome("passed", "")
    for name, most_s in BENCHMARKS.items():
        left_s = ends - time.monotonic()
        if left_s < LEAST_S:
            if worst.state != "failed":
                worst = Outcome("cut", f"time was up before bench {name}, after {len(rows)} rows")
            break
        outcome = _bench(name, check, min(most_s, left_s), rows)
        if outcome.state == "failed" or (outcome.state == "cut" and worst.state == "passed"):
            worst = outcome
    if worst.state == "passed" and not rows:
        worst = Outcome("failed", "bench measured nothing")
    return Outcome(worst.state, worst.reason, {"rows": rows})


def _bench(name: str, check: Check, limit_s: float, rows: list[dict[str, Any]]) -> Outcome:
    path = check.out / "bench.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "fewstep", "bench", name, "--device", "cuda"]
    command += ["--out", str(path), *(["--quick"] if check.quick else [])]
    child = check.child(f"bench-{name}", command, limit_s)
    rows += rows_of(path)
    path.unlink(missing_ok=True)  # the report has them now
    if child.cut:
        return Outcome("cut", f"time was up in bench {name} after {len(rows)} rows")
    if child.code != 0:
        return Outcome("failed", f"bench {name} ended with {child.code}: {child.last_lines()}")
    return Outcome("passed", "")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows that were written; none when there is no file."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows
