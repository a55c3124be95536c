# SPDX-License-Identifier: Apache-2.0
"""``fewstep gpu-check``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import fewstep

from . import build
from .check import SECTIONS, carry_out, head, not_measured, seconds_until
from .process import run
from .report import JSON_NAME, MARKDOWN_NAME, Report
from .section import Check

REFUSED = 2


def gpu_check(
    out: Annotated[Path, typer.Option(help="Folder of the report and the logs.")] = Path(
        "gpu-check"
    ),
    budget: Annotated[float, typer.Option(min=30, help="Seconds in all.")] = 530,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small cases, no compiled rivals.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the report without measuring anything.")
    ] = False,
    commit: Annotated[
        str | None, typer.Option(help="What to call the commit where there is no git.")
    ] = None,
    ends_at: Annotated[float | None, typer.Option(hidden=True)] = None,
    built: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Prove everything that needs a GPU: tests, sanitizers, benchmarks; one report.

    Builds the CUDA kernels first where this build lacks them. Exits with 0 when all that ran
    passed, 1 when something failed, 2 when nothing could run. A missed bar is reported; it is no
    failure.
    """
    ends = time.time() + budget if ends_at is None else ends_at
    source = build.find_source(Path(fewstep.__file__).resolve(), Path.cwd())
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    capability = build.compute_capability()
    if dry_run:
        report = Report(out, head(source, "none", commit), SECTIONS, {})
        not_measured(report, "no CUDA device" if capability is None else "dry run")
        _point_to(out)
        return
    if capability is None:
        _refuse("no GPU: neither nvidia-smi nor torch finds one; --dry-run writes the report")
    if not fewstep.info()["cuda"]["built"]:
        if built is not None:
            _refuse(f"the build in {built} is not what Python imports: {fewstep.__file__}")
        again = ["--quick"] if quick else []
        again += ["--commit", commit] if commit else []
        _build_and_restart(source, out, capability, ends, again)
    report = Report(out, head(source, built or "as installed", commit), SECTIONS, {})
    check = Check(out, source, quick, time.monotonic() + seconds_until(ends))
    carry_out(report, check, _say)
    _point_to(out)
    if not report.is_fine:
        raise typer.Exit(1)


def _build_and_restart(
    source: Path | None, out: Path, capability: str, ends: float, again: list[str]
) -> NoReturn:
    """Build for this GPU and become the command of that build; does not return."""
    if source is None:
        _refuse("this build has no CUDA kernels, and no checkout is here or above to build them")
    folder = source / "build" / f"gpu-check-{build.architecture(capability)}"
    log = out / "build.log"
    log.unlink(missing_ok=True)

    def perform(command: list[str]) -> int:
        part = out / "build.part.log"
        child = run(command, ends - time.time(), part)
        with log.open("a") as stream:
            stream.write(f"$ {' '.join(command)}\n{child.output}\n")
        part.unlink()
        if child.code != 0:
            _say(child.last_lines(15))
        return child.code

    begin = time.time()
    _say(f"building CUDA kernels for {build.architecture(capability)} ({log})")
    try:
        site = build.build(source, folder, capability, perform)
    except build.BuildError as error:
        _refuse(str(error))
    how = f"{build.architecture(capability)}, built in {time.time() - begin:.0f} s"
    arguments = ["gpu-check", "--out", str(out), "--ends-at", str(ends), "--built", how, *again]
    environment = {**os.environ, **build.child_environment(site)}
    sys.stdout.flush()
    command = [sys.executable, "-m", "fewstep", *arguments]
    os.execve(sys.executable, command, environment)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _point_to(out: Path) -> None:
    typer.echo(f"{out / MARKDOWN_NAME}\n{out / JSON_NAME}")


def _refuse(message: str) -> NoReturn:
    typer.echo(f"fewstep gpu-check: {message}", err=True)
    raise typer.Exit(REFUSED)
