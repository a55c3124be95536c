# SPDX-License-Identifier: Apache-2.0
"""The command ``fewstep bench decode``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer


def decode(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The smallest sizes only.")] = False,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", help="Only this case (may be given more than once)."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, help="Thread count (default: one, and all cores)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the JSON here too, after every row.")
    ] = None,
) -> None:
    """Time draft trees, sampling and the KV cache against torch and transformers."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            typer.echo(f"bench decode: '{package}' is missing; install fewstep[bench]", err=True)
            raise typer.Exit(2)
    from rich.console import Console

    from ..machine import commit, machine
    from ..rows import Options, WrongResult
    from . import names, run

    for name in case or []:
        if name not in names():
            known = ", ".join(names())
            raise typer.BadParameter(f"'{name}' is none of {known}", param_hint="--case")
    counts = tuple(sorted(set(threads or [1, len(os.sched_getaffinity(0))])))
    head = {"machine": machine(), "commit": commit()}

    def keep(rows: list[dict[str, Any]]) -> None:
        if out is not None:
            part = out.with_name(out.name + ".part")
            part.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
            part.replace(out)

    try:
        with Console(stderr=True).status("measuring") as status:
            rows = run(Options(counts, tuple(case or ()), quick), status.update, keep)
    except WrongResult as wrong:
        typer.echo(f"bench decode: {wrong}", err=True)
        raise typer.Exit(1) from wrong
    if as_json:
        json.dump({**head, "rows": rows}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        Console().print(table(rows))


def table(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return a table of the rows; what has a bar says whether it is met."""
    from rich.table import Table

    from ..report import bar, short
    from . import SIZES

    out = Table(title="fewstep bench decode")
    for heading in ("op", "case", "sizes", "dtype"):
        out.add_column(heading)
    out.add_column("threads", justify="right")
    out.add_column("rival")
    for heading in ("ours us", "rival us", "ratio", "share", "bar"):
        out.add_column(heading, justify="right")
    for row in rows:
        out.add_row(
            str(row["op"]),
            str(row["case"]),
            " ".join(f"{key}={row[key]}" for key in SIZES if key in row),
            str(row.get("dtype", "")),
            str(row["threads"]),
            str(row["rival"]),
            short(row["ours_us"]),
            short(row["rival_us"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{100 * row['share']:.0f} %" if "share" in row else "",
            bar(row),
            style="bold" if "bar" in row else "",
        )
    return out
