# SPDX-License-Identifier: Apache-2.0
"""``fewstep plan``."""

from __future__ import annotations

import inspect
import json
import math
from typing import Annotated, Any

import typer
from rich.table import Table

from fewstep import schedules, solver

from . import _show

PREDICTIONS = ("epsilon", "x0", "v", "flow", "edm")
SCHEDULES = tuple(
    name
    for name in schedules.__all__
    if name.islower()
    and inspect.signature(getattr(schedules, name)).return_annotation == "Schedule"
)


def plan(
    name: Annotated[str, typer.Argument(help="Solver, such as unipc.")],
    steps: Annotated[int, typer.Option(help="Intervals of the schedule.")] = 8,
    schedule: Annotated[
        str,
        typer.Option(
            help="NAME or NAME:KEY=VALUE,... such as karras:sigma_max=40 or sigmas:values=9/3/1/0."
        ),
    ] = "karras",
    order: Annotated[int | None, typer.Option(help="For solvers that take one.")] = None,
    prediction: Annotated[str, typer.Option(help=", ".join(PREDICTIONS))] = "epsilon",
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the solver, such as eta=0.5; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the rows of a solver's plan: what is computed between two model calls."""
    _show.check_name("solver", name, solver.SOLVERS)
    _show.check_name("prediction", prediction, PREDICTIONS)
    schedule_name, _, settings = schedule.partition(":")
    _show.check_name("schedule", schedule_name, SCHEDULES)
    try:
        nodes = getattr(schedules, schedule_name)(**_settings("schedule", settings.split(",")))
        made = solver.plan(
            name,
            steps=steps,
            schedule=nodes,
            prediction=prediction,
            order=order,
            **_settings("option", option or []),
        )
    except (TypeError, ValueError) as error:
        _show.refuse(str(error))
    if as_json:
        _show.print_json(json.loads(made.to_json()))
    else:
        _print(made)


def _settings(kind: str, pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; numbers and numbers separated by ``/`` become such."""
    result: dict[str, Any] = {}
    for pair in filter(None, pairs):
        key, equals, text = pair.partition("=")
        if not equals:
            _show.refuse(f"'{kind}' must be KEY=VALUE, got {pair}")
        result[key] = _value(text)
    return result


def _value(text: str) -> Any:
    if "/" in text:
        return [float(part) for part in text.split("/")]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _print(made: solver.Plan) -> None:
    table = Table(
        title=f"{made.name}: {made.calls} model calls, {len(made)} rows, {made.slots} state slots"
    )
    for name in ("row", "step", "t", "sigma / alpha", "order"):
        table.add_column(name, justify="right")
    table.add_column("update")
    for number, row in enumerate(made.rows):
        ratio = row.sigma / row.alpha if row.alpha else math.inf
        cells = (str(number), str(row.step), f"{row.t:.6g}", f"{ratio:.6g}", str(row.order))
        table.add_row(*cells, _update(row))
    console = _show.out()
    console.print(table)
    console.print(
        "x: the sample; s1, s2, ...: state slots; g: guided model output; h: its clamped x0; "
        "xi: new normals; in: next model input",
        highlight=False,
        soft_wrap=True,
    )


def _operand(code: int) -> str:
    """Name an operand as the legend does."""
    if code == 0:
        return "x"
    if code < 16:
        return f"s{code}"
    if 17 <= code <= 20:
        return f"m{code - 17}"
    return {16: "g", 21: "h", 22: "known", 23: "in"}[code]


def _update(row: Any) -> str:
    """Write a row's outputs as formulas, one per line."""
    lines = []
    for r in range(row.n_outputs):
        if row.role[r] == 3:  # FEWSTEP_ROLE_INPUT: the first output, scaled for the next model call
            lines.append(f"in = {row.next_scale:.5g} * new x")
            continue
        terms = [(row.a[r][k], _operand(row.input[k])) for k in range(row.n_inputs)]
        terms += [(row.noise[r][z], "xi") for z in range(row.n_noises)]
        text = " ".join(f"{value:+.5g} {what}" for value, what in terms if value != 0)
        lines.append(f"{_operand(row.output[r])} = {text or '0'}")
    return "\n".join(lines)
