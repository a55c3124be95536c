# SPDX-License-Identifier: Apache-2.0
"""``fewstep info``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

import fewstep

from . import _show


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the version, the CPU kernels in use, threads and CUDA."""
    try:
        facts = fewstep.info()
    except NotImplementedError as error:
        _show.refuse(str(error))
    if as_json:
        _show.print_json(facts)
        return
    cpu, cuda = facts["cpu"], facts["cuda"]
    table = Table(show_header=False, title=f"fewstep {facts['version']}")
    table.add_row("CPU kernels in use", cpu["isa"])
    table.add_row("CPU kernels available", ", ".join(cpu["available"]))
    table.add_row("threads", str(cpu["threads"]))
    table.add_row("CUDA kernels in this build", "yes" if cuda["built"] else "no")
    table.add_row("CUDA devices", str(cuda["devices"]))
    table.add_row("C headers", facts["include_dir"])
    table.add_row("CMake package", facts["cmake_dir"])
    _show.out().print(table)
