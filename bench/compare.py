# SPDX-License-Identifier: Apache-2.0
"""Compare two stored runs of ``fewstep bench``: python bench/compare.py OLD.json NEW.json.

Exits with 1 when a row of the new run is slower than the old one by more than the noise allows.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MEASURED = {
    "ours_us",
    "rival_us",
    "ratio",
    "gb_per_s",
    "share",
    "difference",
    "bar",
    "met",
    "limit",
    "ours_p10_p90_us",
    "rival_p10_p90_us",
    "us_per_step",
    "copy_gb_per_s",
    "float32_difference",
    "tflops",
    "sm_clock",
    "equal_bits",
    "waits",
    "reason",
    "form",
    "tokens_per_call",
    "tokens_per_s",
    "acceptance_by_depth",
    "seconds",
}


def rows_of(path: Path) -> dict[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """Return a file's rows by what they measured."""
    rows = json.loads(path.read_text())["rows"]
    return {tuple(sorted((k, v) for k, v in r.items() if k not in MEASURED)): r for r in rows}


def main(arguments: list[str] | None = None) -> int:
    """Print the rows that changed; return how the program is to exit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--noise", type=float, default=0.15, help="relative change that means nothing"
    )
    options = parser.parse_args(arguments)
    old, new = rows_of(options.old), rows_of(options.new)
    slower = 0
    for key, row in new.items():
        if key not in old or not (row["ratio"] and old[key]["ratio"]):
            continue  # new, or a limit that has no rival
        # Both sides of a run saw the same machine, so the ratio moves less than the times.
        change = row["ratio"] / old[key]["ratio"]
        time = row["ours_us"] / old[key]["ours_us"]
        if abs(time - 1.0) <= options.noise:
            continue
        is_regression = time > 1.0 + options.noise and change < 1.0 - options.noise
        slower += is_regression
        what = {k: value for k, value in row.items() if k not in MEASURED}
        name = " ".join(v if isinstance(v, str) else f"{k}={v}" for k, v in what.items())
        mark = "SLOWER" if is_regression else "faster" if time < 1.0 else "noise?"
        print(f"{mark}  {name}: {old[key]['ours_us']} -> {row['ours_us']} us ({time:.2f}x)")
    missing = len(set(old) - set(new))
    print(f"{len(set(old) & set(new))} rows compared, {slower} slower, {missing} missing")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
