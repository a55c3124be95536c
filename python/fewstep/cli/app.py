# SPDX-License-Identifier: Apache-2.0
"""The command tree."""

from __future__ import annotations

import importlib.util

import typer

from . import demo, info, plan

app = typer.Typer(
    name="fewstep",
    help="What a generator does between two model calls: plans, demos, benchmarks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("info")(info.info)
app.command("plan")(plan.plan)
app.add_typer(demo.app, name="demo")

# The benchmarks compare with packages that the demo does not need; they register what they have.
if importlib.util.find_spec("fewstep.bench") is not None:
    from fewstep.bench import app as bench_app

    app.add_typer(bench_app, name="bench")
if importlib.util.find_spec("fewstep.gpu_check") is not None:
    from fewstep.gpu_check.cli import gpu_check

    app.command("gpu-check")(gpu_check)
