# SPDX-License-Identifier: Apache-2.0
"""``fewstep demo``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

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


@app.command("text")
def text(
    prompt: Annotated[
        str | None, typer.Option(help="Beginning of the text; held-out text by default.")
    ] = None,
    drafter: Annotated[
        str, typer.Option(help="model, cascade, contexts, recycling, lookup, trigram or none.")
    ] = "contexts",
    temperature: Annotated[float, typer.Option(help="0 for greedy decoding.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the text.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 128,
    model: Annotated[
        str | None, typer.Option(help="Folder of a model of your own, or its name on the hub.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Stream text with accepted drafts coloured and compare ways to generate it."""
    try:
        from fewstep.demo import text as demo
    except ImportError as error:
        _show.refuse(f"the demo needs {error.name}: pip install fewstep[demo]")
    _show.check_name("drafter", drafter, demo.DRAFTERS)
    settings = demo.Settings(prompt, drafter, temperature, seed, max_tokens, model)
    demo.quiet()
    try:
        with demo.threads(model):
            models = demo.load(model)
            if not as_json:
                _stream(demo.prompt_text(settings), demo.stream(settings, models))
            with _show.progress_bars() as report:
                result = demo.run(settings, models, report)
    except ValueError as error:
        _show.refuse(str(error))
    if as_json:
        _show.print_json(result)
    else:
        _print_ways(result)


def _stream(prompt: str, parts: Iterable[tuple[str, bool]]) -> None:
    """Print a text while it comes: the prompt dim, accepted drafts green."""
    console = _show.out()
    console.print(Text(prompt, style="dim"), end="", soft_wrap=True)
    for piece, drafted in parts:
        console.print(Text(piece, style="green" if drafted else ""), end="", soft_wrap=True)
    console.print("\n")
    console.print(Text("green: accepted drafts", style="green"))


def _print_ways(result: dict[str, Any]) -> None:
    """Print the table of ways, what was accepted and where the time went."""
    settings, ways = result["settings"], result["ways"]
    names = {
        "fewstep": f"fewstep, {settings['drafter']}",
        "plain": "fewstep, no drafts",
        "assisted": "transformers, assisted",
        "lookup": "transformers, prompt look-up",
        "transformers": "transformers",
    }
    table = Table(title=f"{settings['max_tokens']} tokens at most, batch 1, one text")
    table.add_column("way", no_wrap=True)
    for name in ("tokens/call", "tokens/s", "speed-up over it"):
        table.add_column(name, justify="right")
    for way, name in names.items():
        if way in ways:
            calls = f"{result['tokens_per_call']:.2f}" if way == "fewstep" else "-"
            table.add_row(
                name,
                "1.00" if way in ("plain", "transformers") else calls,
                f"{ways[way]:.0f}",
                f"{ways['fewstep'] / ways[way]:.2f}x",
                style="bold" if way == "fewstep" else None,
            )
    console = _show.out()
    console.print(table)
    depths = " ".join(f"{100 * share:.0f} %" for share in result["acceptance_by_depth"][:8])
    time = {name: f"{1e3 * seconds:.0f} ms" for name, seconds in result["time"].items()}
    same = {True: "identical", False: "DIFFERENT"}[result["identical"]]
    public = "identical" if result["identical_to_transformers"] else "different at a near tie"
    console.print(
        f"Accepted by depth, of drafts that came there: {depths or '-'}\n"
        f"Time of the text: model {time['model']}, draft {time['draft']}, fewstep "
        f"{time['fewstep']} (verification {time['verify']}, cache {time['cache']})\n"
        f"Greedy text with and without drafts: {same}; against transformers: {public}",
        highlight=False,
    )
