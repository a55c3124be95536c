# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmark as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from ..cases import SIZES
from ..report import bar, fold, short


def table(rows: Iterable[Mapping[str, Any]], title: str = "fewstep bench decode") -> Table:
    """Return a table of the rows; what has a bar says whether it is met."""
    out = Table(title=title)
    for heading in ("op", "case", "sizes", "dtype"):
        out.add_column(heading)
    out.add_column("threads", justify="right")
    out.add_column("rival")
    for heading in ("ours us", "rival us", "ratio", "share", "bar"):
        out.add_column(heading, justify="right")
    fold(out)
    for row in rows:
        out.add_row(
            str(row["op"]),
            str(row["case"]),
            " ".join(f"{key}={row[key]}" for key in SIZES if key in row),
            str(row.get("dtype", "")),
            str(row.get("threads", "")),
            str(row["rival"]),
            short(row["ours_us"]),
            short(row["rival_us"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{100 * row['share']:.0f} %" if "share" in row else "",
            bar(row),
            style="bold" if "bar" in row else "",
        )
    return out
