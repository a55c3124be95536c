# SPDX-License-Identifier: Apache-2.0
"""What the commands under ``fewstep bench`` share: options, the device, and how rows go out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Case = Annotated[
    list[str] | None,
    typer.Option("--case", help="Only this case (may be given more than once)."),
]
Threads = Annotated[
    list[int] | None,
    typer.Option("--threads", min=1, help="Thread count (default: one, and all cores)."),
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Out = Annotated[Path | None, typer.Option(help="Write the JSON here too, after every row.")]


def refuse(command: str, message: str) -> NoReturn:
    """End with status 2 and one line."""
    typer.echo(f"bench {command}: {message}", err=True)
    raise typer.Exit(2)


def need(command: str, *packages: str) -> None:
    """Refuse to go on without these packages."""
    for package in packages:
        if find_spec(package) is None:
            refuse(command, f"'{package}' is missing; install fewstep[bench]")


def check_cases(names: Iterable[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """Return the cases that were asked for, each of which must be known."""
    allowed = list(known)
    for name in names or ():
        if name not in allowed:
            raise typer.BadParameter(
                f"'{name}' is none of {', '.join(allowed)}", param_hint="--case"
            )
    return tuple(names or ())


def options_of(case: Iterable[str], threads: Iterable[int] | None, quick: bool) -> Any:
    """Return the options of a run."""
    from .rows import Options

    cores = len(os.sched_getaffinity(0))
    return Options(tuple(sorted(set(threads or [1, cores]))), tuple(case), quick)


def target_of(command: str, device: str) -> Any:
    """Return the device to measure, or refuse one that is not there."""
    import torch

    import fewstep

    from . import target

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"'{device}' is none of cpu, cuda", param_hint="--device")
    if device == "cpu":
        return target.cpu()
    if not fewstep.info()["cuda"]["built"]:
        refuse(command, "this build has no CUDA kernels (FEWSTEP_CUDA=ON)")
    if not torch.cuda.is_available():
        refuse(command, "torch sees no CUDA device")
    return target.cuda()


def carry_out(
    command: str,
    run: Callable[..., list[dict[str, Any]]],
    options: Any,
    target: Any,
    as_json: bool,
    out: Path | None,
    table: Callable[[Iterable[Mapping[str, Any]]], Any],
) -> None:
    """Measure, keep the rows as they come, and print them.

    Parameters
    ----------
    command : str
        For messages.
    run : callable
        ``run(options, progress, target, keep)``, which returns rows.
    options : Options
    target : Target
    as_json : bool
        Print one JSON object in place of the table.
    out : Path or None
        Where to write the JSON after every row.
    table : callable
        Makes a table of the rows.
    """
    from rich.console import Console

    from ..cli._show import out as out_console
    from .machine import commit, gpu, machine
    from .rows import WrongResult

    where = machine() | ({"gpu": gpu()} if target.is_cuda else {})
    head = {"machine": where, "commit": commit()}

    def keep(rows: list[dict[str, Any]]) -> None:
        if out is not None:
            _write(out, {**head, "rows": rows})

    try:
        with Console(stderr=True).status("measuring") as status:
            rows = run(options, status.update, target, keep)
    except WrongResult as wrong:
        typer.echo(f"bench {command}: {wrong}", err=True)
        raise typer.Exit(1) from wrong
    keep(rows)
    if as_json:
        json.dump({**head, "rows": rows}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        out_console().print(table(rows))
    failed = [row for row in rows if row.get("failed")]
    for row in failed:
        typer.echo(f"bench {command}: {row['case']}: {row['reason']}", err=True)
    if failed:
        raise typer.Exit(1)


def _write(path: Path, value: object) -> None:
    """Replace a file in one go, so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)
