# SPDX-License-Identifier: Apache-2.0
"""What the commands share: consoles, JSON, refusals, progress."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

UNLIMITED = 1000  # columns


def out() -> Console:
    """Return the console of a command's result. Made anew: tests swap the streams.

    A file or pipe has lines as long as they need; else tables would be cut to 80 columns.
    """
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=UNLIMITED)


def errors() -> Console:
    """Return the console of messages and progress, on stderr: stdout may be read by a program."""
    return Console(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON object, and nothing that a JSON reader refuses (no NaN)."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def refuse(message: str) -> NoReturn:
    """Print why a command cannot run and exit with 2."""
    errors().print(f"fewstep: {message}", style="red", markup=False, highlight=False)
    raise typer.Exit(2)


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Refuse an unknown name; the message lists the nearest known ones."""
    names = list(known)
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.55)
    near = list(dict.fromkeys(close + [n for n in names if name and name in n])) or names
    refuse(f"'{kind}' must be a known {kind}, got {name}; near: {', '.join(near)}")


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each kind of work that is reported; on stderr."""
    with Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors(),
    ) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield report
