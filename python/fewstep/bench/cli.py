# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench``."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from .command import AsJson, Case, Device, Out, Threads, carry_out, check_cases, need, options_of
from .command import target_of as _target

app = typer.Typer(help="Benchmarks against what one would call instead.", no_args_is_help=True)


@app.command()
def solver(
    as_json: AsJson = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, float32, no compiled rival.")
    ] = False,
    case: Case = None,
    threads: Threads = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Time solver steps and normals against diffusers, torch.compile and the memory."""
    _need("solver", device)
    from . import motion
    from .cases import CASES
    from .report import table
    from .solver import run
    from .trajectory import NAME

    guided = (f"{name}_cfg" for name in CASES)
    known = [*CASES, *guided, "normal", motion.NAME, "host_overhead", NAME]
    options = options_of(check_cases(case, known), threads, quick)
    carry_out("solver", run, options, _target("solver", device), as_json, out, table)


@app.command()
def guidance(
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only what has a bar.")] = False,
    case: Case = None,
    threads: Threads = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Time guided and thresholded steps and quantiles against diffusers and torch."""
    _need("guidance", device)
    from .guidance import NAMES, run
    from .report import table

    options = options_of(check_cases(case, NAMES), threads, quick)
    carry_out("guidance", run, options, _target("guidance", device), as_json, out, table)


@app.command()
def decode(
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="The smallest sizes only.")] = False,
    case: Case = None,
    threads: Threads = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Time draft trees, sampling and the KV cache against torch and transformers."""
    need("decode", "torch", *(() if device == "cuda" else ("transformers",)))
    from .decode import names, run, table

    options = options_of(check_cases(case, names()), threads, quick)
    carry_out("decode", run, options, _target("decode", device), as_json, out, table)


@app.command()
def linear(
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only what has a bar.")] = False,
    case: Case = None,
    threads: Threads = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Time linear layers of a few rows against torch and the machine's limits."""
    need("linear", "torch")
    bench = _module("linear_device" if device == "cuda" else "linear")
    options = options_of(check_cases(case, bench.NAMES), threads, quick)
    target = _target("linear", device)
    carry_out("linear", bench.run, options, target, as_json, out, bench.table)


@app.command()
def generate(
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few short texts.")] = False,
    case: Case = None,
    threads: Threads = None,
    device: Device = "cpu",
    out: Out = None,
) -> None:
    """Time whole texts against transformers' generate, assisted and prompt look-up.

    On a GPU: a generator's cycle against its model alone.
    """
    need("generate", "torch", *(() if device == "cuda" else ("transformers",)))
    bench = _module("cycle" if device == "cuda" else "generate")
    options = options_of(check_cases(case, bench.NAMES), threads, quick)
    target = _target("generate", device)
    carry_out("generate", bench.run, options, target, as_json, out, bench.table)


def _need(command: str, device: str) -> None:
    """Ask for rivals, but not on a GPU's machine: cut off from registries, the rest is measured."""
    need(command, "torch", *(() if device == "cuda" else ("diffusers",)))


def _module(name: str) -> Any:
    """Return a benchmark whose cases depend on the device."""
    return import_module(f".{name}", __package__)
