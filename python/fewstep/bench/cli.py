# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench``."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from .decode.cli import decode

app = typer.Typer(help="Benchmarks against what one would call instead.", no_args_is_help=True)
app.command()(decode)


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

    from .guidance import NAMES, run
    from .machine import commit, machine
    from .report import table
    from .rows import WrongResult

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
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Write the JSON here too, after every row.")
    ] = None,
) -> None:
    """Time solver steps and normals against diffusers, torch.compile and the memory."""
    # A machine with a GPU may be cut off from all registries: there the rest is measured alone.
    for package in ("torch",) if device == "cuda" else ("torch", "diffusers"):
        if find_spec(package) is None:
            _refuse(f"'{package}' is missing; install fewstep[bench]")
    from rich.console import Console

    from .machine import commit, gpu, machine
    from .report import table
    from .rows import Options, WrongResult
    from .solver import run

    _check_cases(case or [])
    target = _target(device)
    cores = len(os.sched_getaffinity(0))
    options = Options(
        threads=tuple(sorted(set(threads or [1, cores]))), only=tuple(case or []), quick=quick
    )
    where = machine() | ({"gpu": gpu()} if target.is_cuda else {})
    head = {"machine": where, "commit": commit()}

    def keep(rows: list[dict[str, Any]]) -> None:
        if out is not None:
            _write(out, {**head, "rows": rows})

    try:
        with Console(stderr=True).status("measuring") as status:
            rows = run(options, status.update, target, keep)
    except WrongResult as wrong:
        typer.echo(f"bench solver: {wrong}", err=True)
        raise typer.Exit(1) from wrong
    keep(rows)
    if as_json:
        json.dump({**head, "rows": rows}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        Console().print(table(rows))
    for row in rows:
        if row.get("failed"):
            typer.echo(f"bench solver: {row['case']}: {row['reason']}", err=True)
    if any(row.get("failed") for row in rows):
        raise typer.Exit(1)


def _refuse(message: str) -> None:
    typer.echo(f"bench solver: {message}", err=True)
    raise typer.Exit(2)


def _check_cases(names: list[str]) -> None:
    from . import motion
    from .cases import CASES
    from .trajectory import NAME

    guided = (f"{name}_cfg" for name in CASES)
    known = [*CASES, *guided, "normal", motion.NAME, "host_overhead", NAME]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(known)}", param_hint="--case")


def _target(device: str) -> Any:
    """Return the device to measure, or refuse one that is not there."""
    import torch

    import fewstep

    from . import target

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"'{device}' is none of cpu, cuda", param_hint="--device")
    if device == "cpu":
        return target.cpu()
    if not fewstep.info()["cuda"]["built"]:
        _refuse("this build has no CUDA kernels (FEWSTEP_CUDA=ON)")
    if not torch.cuda.is_available():
        _refuse("torch sees no CUDA device")
    return target.cuda()


def _write(path: Path, value: object) -> None:
    """Replace a file in one go, so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)
