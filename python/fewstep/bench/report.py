# SPDX-License-Identifier: Apache-2.0
"""The rows of a benchmark as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table


def table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of the rows; what has a bar says whether it is met."""
    out = Table(title="fewstep bench solver")
    out.add_column("op")
    out.add_column("case")
    for heading in ("elements", "dtype", "threads or device"):
        out.add_column(heading, justify="right")
    out.add_column("rival")
    for heading in ("ours us", "rival us", "ratio", "GB/s", "share", "bar"):
        out.add_column(heading, justify="right")
    fold(out)
    for row in rows:
        out.add_row(
            str(row["op"]),
            str(row["case"]),
            f"{row['n']:,}",
            str(row["dtype"]),
            str(row.get("threads", row.get("device"))),
            str(row["rival"]),
            short(row["ours_us"]),
            short(row["rival_us"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{row['gb_per_s']:.1f}" if "gb_per_s" in row else "",
            f"{100 * row['share']:.0f} %" if "share" in row else "",
            bar(row),
            style="bold" if "bar" in row else "",
        )
    return out


def fold(table: Table) -> None:
    """Let a narrow terminal have words in pieces, of which rich would leave out the ends."""
    for column in table.columns:
        column.overflow = "fold"


def short(microseconds: float | None) -> str:
    """Return a time with two decimals where they count."""
    if microseconds is None:
        return "-"
    return f"{microseconds:,.2f}" if microseconds < 100 else f"{microseconds:,.0f}"


def bar(row: Mapping[str, Any]) -> str:
    """Return what a row had to reach and whether it does."""
    if "bar" not in row:
        return ""
    colour = "green" if row["met"] else "red"
    word = "met" if row["met"] else "missed"
    return f"[{colour}]{row['bar']:g} {word}[/{colour}]"
