# SPDX-License-Identifier: Apache-2.0
"""Print the README's table of a stored run: python bench/summary.py bench/results/RUN.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SIZES = ("B", "T", "L", "GQA", "V", "K", "Q", "M", "I", "O")


def microseconds(value: float) -> str:
    """Return a time with the unit that suits it."""
    return f"{value:.3g} us" if value < 1000 else f"{value / 1000:.3g} ms"


def target(row: dict[str, Any]) -> str:
    """Return what a row had to reach, and mark what it did not."""
    text = f">= {row['bar']:g}x"
    if row["case"] == "host_overhead":
        text = f"<= {row['bar']:g} us"
    elif row.get("limit") == row["rival"]:
        text = f">= {100 * row['bar']:.0f} %"
    return text if row["met"] else f"{text} (missed)"


def name_of(row: dict[str, Any]) -> str:
    """Return what was measured: the case, and of texts what wrote them."""
    return f"`{row['case']}`" if "n" in row else f"`{row['case']}`, {row['op']}"


def size_of(row: dict[str, Any]) -> str:
    """Return the elements, or the sizes that an op has instead."""
    if "n" in row:
        return f"{row['n']:,}"
    return ", ".join(f"{key} {row[key]:,}" for key in SIZES if key in row)


def main() -> None:
    """Print one line for each row that has a bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    run = json.loads(parser.parse_args().run.read_text())
    machine = run["machine"]
    device = f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']} kernels"
    if "gpu" in machine:
        device = f"{machine['gpu']['name']} (sm_{machine['gpu']['sm'].replace('.', '')})"
    versions = machine["versions"]
    print(f"{device}, torch {versions.get('torch')}, diffusers {versions.get('diffusers')}:\n")
    where = "device" if "gpu" in machine else "threads"
    size = "elements" if all("n" in row for row in run["rows"]) else "size"
    print(f"| case | {size} | dtype | {where} | rival | fewstep | rival | ratio | bar |")
    print("|---|---:|---|---:|---|---:|---:|---:|---|")
    for row in run["rows"]:
        if "bar" not in row:
            continue
        ratio = f"{row['ratio']:.3g}x"
        if row.get("limit") == row["rival"]:
            ratio = f"{100 * row['share']:.0f} %"
        cells = [
            name_of(row),
            size_of(row),
            row["dtype"],
            str(row[where]),
            row["rival"],
            microseconds(row["ours_us"]),
            microseconds(row["rival_us"]),
            ratio,
            target(row),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
