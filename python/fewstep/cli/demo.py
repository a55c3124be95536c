# SPDX-License-Identifier: Apache-2.0
"""``fewstep demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from . import _show

app = typer.Typer(help="Demos on real data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``demo`` a group of commands."""


@app.command("image")
def image(
    solver: Annotated[str, typer.Option(help="Solver of the sheet of digits.")] = "unipc",
    order: Annotated[int, typer.Option(help="Order, for solvers that take one.")] = 3,
    steps: Annotated[int, typer.Option(help="Model calls that each solver may make.")] = 8,
    guidance: Annotated[float, typer.Option(help="Guidance scale; 1 for none.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of the first sample.")] = 0,
    samples: Annotated[int, typer.Option(help="Samples for the Frechet distance.")] = 1000,
    out: Annotated[Path, typer.Option(help="Directory for the pictures.")] = Path("fewstep-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw handwritten digits and compare solvers on them."""
    try:
        from fewstep.demo import compare, problem
        from fewstep.demo.image import run
    except ImportError as error:
        _show.refuse(f"the demo needs {error.name}: pip install fewstep[demo]")
    _show.check_name("solver", solver, problem.SOLVERS)
    settings = compare.Settings(solver, order, steps, guidance, seed, samples)
    try:
        with _show.progress_bars() as report:
            result = run(settings, out, report)
    except ValueError as error:
        _show.refuse(str(error))
    except ImportError as error:
        _show.refuse(f"the demo needs {error.name}: pip install fewstep[demo]")
    if as_json:
        _show.print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    """Print the table, its floor and ceiling, and where the pictures are."""
    settings = result["settings"]
    table = Table(
        title=f"{settings['samples']} digits, up to {settings['steps']} model calls, "
        f"guidance {settings['guidance']:g}"
    )
    table.add_column("solver", no_wrap=True)
    for name in ("calls", "RMS", "Frechet", "right digit", "model ms", "fewstep ms"):
        table.add_column(name, justify="right")
    for line in result["solvers"]:
        table.add_row(
            line["solver"],
            str(line["model_calls"]),
            "-" if line["rms"] is None else f"{line['rms']:.4f}",
            f"{line['frechet']:.3f}",
            f"{100 * line['accuracy']:.1f} %",
            f"{line['model_ms']:.0f}",
            f"{line['fewstep_ms']:.1f}",
            style="bold" if line["solver"] == settings["solver"] else None,
        )
    console = _show.out()
    console.print(table)
    console.print(
        "RMS: pixels against a float64 solution of the ODE from the same noise; stochastic solvers "
        "do not follow it (-). From these noise levels euler, ddim and flow_euler are one and the "
        "same step, and so are euler_ancestral and ddpm.\n"
        f"Frechet: to the real digits in a classifier's features; real against real scores "
        f"{result['frechet_floor']:.3f}, noise {result['frechet_noise']:.1f}.",
        highlight=False,
    )
    for path in result["files"].values():
        console.print(path, highlight=False, soft_wrap=True)
