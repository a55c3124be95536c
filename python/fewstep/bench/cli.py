# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench``."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

app = typer.Typer(help="Benchmarks against what one would call instead.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Keep the family's name a word of the command even while it is the only one."""


@app.command()
def guidance(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", help="Only this case (may be given more than once)."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, help="Thread count (default: one, and all cores)."),
    ] = None,
) -> None:
    """Time guided and thresholded steps and quantiles against diffusers and torch."""
    for package in ("torch", "diffusers"):
        if find_spec(package) is None:
            typer.echo(f"bench guidance: '{package}' is missing; install fewstep[bench]", err=True)
            raise typer.Exit(2)
    from rich.console import Console

    from .guidance import NAMES, WrongResult, run
    from .machine import commit, machine
    from .report import table

    for name in case or []:
        if name not in NAMES:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(NAMES)}", param_hint="--case")
    counts = tuple(sorted(set(threads or [1, len(os.sched_getaffinity(0))])))
    try:
        with Console(stderr=True).status("measuring") as status:
            rows = run(counts, tuple(case or ()), status.update)
    except WrongResult as wrong:
        typer.echo(f"bench guidance: {wrong}", err=True)
        raise typer.Exit(1) from wrong
    if as_json:
        json.dump({"machine": machine(), "commit": commit(), "rows": rows}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        Console().print(table(rows))


@app.command()
def solver(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, float32, no compiled rival.")
    ] = False,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", help="Only this case (may be given more than once)."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, help="Thread count (default: one, and all cores)."),
    ] = None,
) -> None:
    """Time solver steps and normals against diffusers, torch.compile and the memory."""
    for package in ("torch", "diffusers"):
        if find_spec(package) is None:
            typer.echo(f"bench solver: '{package}' is missing; install fewstep[bench]", err=True)
            raise typer.Exit(2)
    from rich.console import Console

    from .cases import CASES
    from .machine import commit, machine
    from .report import table
    from .solver import Options, WrongResult, run

    known = [*CASES, *(f"{name}_cfg" for name in CASES), "normal", "host_overhead"]
    for name in case or []:
        if name not in known:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(known)}", param_hint="--case")
    cores = len(os.sched_getaffinity(0))
    options = Options(
        threads=tuple(sorted(set(threads or [1, cores]))), only=tuple(case or []), quick=quick
    )
    console = Console(stderr=True)
    where = machine()
    try:
        with console.status("measuring") as status:
            rows = run(options, status.update)
    except WrongResult as wrong:
        typer.echo(f"bench solver: {wrong}", err=True)
        raise typer.Exit(1) from wrong
    if as_json:
        json.dump({"machine": where, "commit": commit(), "rows": rows}, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    Console().print(table(rows))
